// What follows the matmul of a planned step's projection: the clip, and h where the next matmuls read it.
#include "activations.cuh"
#include "primitives.cuh"

// Launched with rows on grid x and columns on grid y, so that no thread divides.
template <typename T>
__global__ void __launch_bounds__(256)
    lstm_finish(const T* projected,    // (B, P); may be h itself
                i64 projected_stride,  // elements from row to row, as all strides here
                T* h,                  // (B, P), or all slots'
                i64 h_stride,          //
                const int* rows,       // (B,), which row of h, -1 for none; or null for the same
                T* copy,               // (B, P), or null: h once more; zeros where there is no row
                i64 copy_stride,       //
                const T* input,        // (B, P), or null: is added to the copy
                i64 input_stride,      //
                double limit,          // of the clip, infinite for none
                i64 B, i64 P) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (row >= B || column >= P) return;

  const i64 slot = rows ? rows[row] : row;
  T output = Narrow<T>::of(0);
  if (slot >= 0) {
    output = Narrow<T>::of(clip(A(widen(projected[row * projected_stride + column])), A(limit)));
    h[slot * h_stride + column] = output;
    if (copy && input) {
      output = Narrow<T>::of(widen(output) + widen(input[row * input_stride + column]));
    }
  }
  if (copy) copy[row * copy_stride + column] = output;
}
