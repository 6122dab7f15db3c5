// Clips a projected h in place: h = clip(h, +-limit). NaN passes, infinities are clipped.
#include "activations.cuh"
#include "primitives.cuh"

template <typename T> struct ClipArguments {
  T* h;  // (count,), contiguous
  i64 count;
  double limit;
};

template <typename T> __global__ void __launch_bounds__(256) lstm_clip(const ClipArguments<T> a) {
  typedef typename Arithmetic<T>::type A;
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k < a.count) a.h[k] = Narrow<T>::of(clip(A(widen(a.h[k])), A(a.limit)));
}
