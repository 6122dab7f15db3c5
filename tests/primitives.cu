// One kernel for each function of kernels/primitives.cuh and kernels/activations.cuh, over arrays of `count`
// numbers.
#include "activations.cuh"
#include "primitives.cuh"

DEVICE i64 index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

template <typename T> __global__ void widened(const T* in, typename Arithmetic<T>::type* out, i64 count) {
  if (index() < count) out[index()] = widen(in[index()]);
}

template <typename T> __global__ void narrowed(const typename Arithmetic<T>::type* in, T* out, i64 count) {
  if (index() < count) out[index()] = Narrow<T>::of(in[index()]);
}

template <typename T, int W> __global__ void moved(const T* in, T* out, i64 count) {
  const i64 first = index() * W;
  if (first < count) store<W>(out + first, load<W>(in + first));
}

// In blocks of 128, each of which is written back to front.
template <typename T> __global__ void shared(const T* in, T* out, i64 count) {
  SHARED_ARRAY(T, of_block, 128);
  if (index() < count) of_block[threadIdx.x] = in[index()];
  __syncthreads();
  if (index() < count) out[index()] = of_block[127 - threadIdx.x];
}

template <typename A, int KIND> __global__ void activated(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = activate<KIND>(in[index()]);
}

template <typename A> __global__ void sigmoids(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = sigmoid(in[index()]);
}

template <typename A> __global__ void exponentials(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = exponential(in[index()]);
}

template <typename A> __global__ void exponentials_minus_1(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = exponential_minus_1(in[index()]);
}

template <typename A> __global__ void magnitudes(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = magnitude(in[index()]);
}

template <typename A> __global__ void clipped(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = clip(in[index()], A(0.75));
}
