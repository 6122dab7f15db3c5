// Adds a residual connection in place: out = out + more, rounded once to the dtype of both.
#include "primitives.cuh"

template <typename T> struct AddArguments {
  T* out;         // (count,), contiguous; must not overlap `more`
  const T* more;  // (count,), contiguous
  i64 count;
};

template <typename T> __global__ void __launch_bounds__(256) lstm_add(const AddArguments<T> a) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k < a.count) a.out[k] = Narrow<T>::of(widen(a.out[k]) + widen(a.more[k]));
}
