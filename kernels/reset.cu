// Rows that begin anew lose their state before a planned step's matmul reads it: h of all layers, and c of
// all.
//
// A reset selects: a NaN in the old state is gone. Flags that have been used are cleared.
#include "primitives.cuh"

// A block's rows have threads side by side, which pass over all columns: it alone reads and clears their
// flags.
template <typename T>
__global__ void __launch_bounds__(256) lstm_reset(
    unsigned char* is_first,                      // (B,), 0 or 1; or null: all
    const i64* slots,                             // (B,), which row of h and c; or null for the same
    T* h,                                         // (B, H), or all slots': every layer's
    i64 h_stride,                                 // elements from row to row, as all strides here
    const T* reset_h,                             // (B, H), or one row with stride 0, or null for zeros
    i64 reset_h_stride,                           //
    i64 H,                                        //
    typename Arithmetic<T>::type* c,              // (B, C), or all slots': every layer's
    i64 c_stride,                                 //
    const typename Arithmetic<T>::type* reset_c,  // (B, C), or one row with stride 0, or null for zeros
    i64 reset_c_stride,                           //
    i64 C, i64 B) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const bool first = row < B && (!is_first || is_first[row]);
  __syncthreads();  // all have read their flag
  if (!first) return;
  const i64 slot = slots ? slots[row] : row;
  for (i64 k = threadIdx.x; k < H; k += blockDim.x) {
    h[slot * h_stride + k] = reset_h ? reset_h[row * reset_h_stride + k] : Narrow<T>::of(0);
  }
  for (i64 k = threadIdx.x; k < C; k += blockDim.x) {
    c[slot * c_stride + k] = reset_c ? reset_c[row * reset_c_stride + k] : A(0);
  }
  if (is_first && threadIdx.x == 0) is_first[row] = 0;
}
