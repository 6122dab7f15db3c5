// The clip of a projected h, in place: h = clip(h, +-limit). NaN passes, infinities are clipped.
#include "activations.cuh"
#include "primitives.cuh"

template <typename T> __global__ void __launch_bounds__(256) lstm_clip(T* h, i64 count, double limit) {
  typedef typename Arithmetic<T>::type A;
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k < count) h[k] = Narrow<T>::of(clip(A(widen(h[k])), A(limit)));
}
