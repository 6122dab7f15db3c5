// Replaces marked rows in place: out[row] = value[row] where mask[row].
//
// It freezes the state of rows that take no step, and clears outputs past the end of a sequence. It only
// selects, so a replaced NaN is gone.
#include "primitives.cuh"

template <typename T> struct SelectArguments {
  T* out;                     // (B, K), contiguous; must not overlap `value`
  const unsigned char* mask;  // (B,), 0 or 1
  Matrix<const T> value;      // (B, K), or one row with stride 0, or null for zeros
  i64 B, K;
};

// Launched with rows on grid x and columns on grid y, so that no thread divides.
template <typename T> __global__ void __launch_bounds__(256) lstm_select(const SelectArguments<T> a) {
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (row >= a.B || column >= a.K || !a.mask[row]) return;
  a.out[row * a.K + column] = a.value.at ? a.value.at[row * a.value.stride + column] : Narrow<T>::of(0);
}
