// Resets rows in place: h and c of all layers, or of one.
//
// A Stepper's planned step launches it before its matmul, for the rows that is_first marks. `clear` launches
// it for all rows of a Stepper, or for given slots of a pool.
//
// A reset selects and doesn't multiply, so a NaN in the old state is gone. Then flags on the GPU are cleared.
// The host clears its own.
#include "primitives.cuh"

template <typename T> struct ResetArguments {
  typedef typename Arithmetic<T>::type A;
  unsigned char* is_first;  // (B,), 0 or 1; null: reset all rows
  i64 clears;               // whether to clear the flags
  const i64* slots;         // (B,): each row's slot; null: row k uses row k
  Matrix<T> h;              // (B, H), or all slots': every layer's
  Matrix<const T> reset_h;  // (B, H), or one row with stride 0, or null for zeros
  i64 H;
  Matrix<A> c;              // (B, C), or all slots': every layer's
  Matrix<const A> reset_c;  // (B, C), or one row with stride 0, or null for zeros
  i64 C, B;
};

// Neighbouring threads pass over all columns of a row. So only one block reads and clears the row's flag.
template <typename T> __global__ void __launch_bounds__(256) lstm_reset(const ResetArguments<T> a) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const bool first = row < a.B && (!a.is_first || a.is_first[row]);
  __syncthreads();  // all have read their row's flag
  if (!first) return;
  const i64 slot = a.slots ? a.slots[row] : row;
  for (i64 k = threadIdx.x; k < a.H; k += blockDim.x) {
    a.h.at[slot * a.h.stride + k] =
        a.reset_h.at ? a.reset_h.at[row * a.reset_h.stride + k] : Narrow<T>::of(0);
  }
  for (i64 k = threadIdx.x; k < a.C; k += blockDim.x) {
    a.c.at[slot * a.c.stride + k] = a.reset_c.at ? a.reset_c.at[row * a.reset_c.stride + k] : A(0);
  }
  if (a.is_first && a.clears && threadIdx.x == 0) a.is_first[row] = 0;
}
