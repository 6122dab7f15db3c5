// Keeps the GPU busy for some time: one block, so that the host gets ahead, or all, so that clocks rise.
#include "common.cuh"

extern "C" __global__ void spin(u64 duration) {
  const u64 begun = nanoseconds(), most = min(duration, MOST_NANOSECONDS);
  while (nanoseconds() - begun < most) {
  }
}

// Also measures how many cycles passed, in how many nanoseconds.
extern "C" __global__ void busy(float* out, u64* measured, u64 duration) {
  const u64 begun = nanoseconds(), most = min(duration, MOST_NANOSECONDS);
  const long long cycles = clock64();
  float x = threadIdx.x;
  while (nanoseconds() - begun < most) {
#pragma unroll 16
    for (int k = 0; k < 256; ++k) x = x * 0.999f + 0.5f;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    measured[0] = clock64() - cycles;
    measured[1] = nanoseconds() - begun;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}
