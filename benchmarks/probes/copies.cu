// Copies and reads of vectors of 16 bytes, past the L1, and what checks them.
#include "common.cuh"

DEVICE size_t first() { return blockIdx.x * (size_t)blockDim.x + threadIdx.x; }
DEVICE size_t step() { return gridDim.x * (size_t)blockDim.x; }

// `vectors` must be a multiple of 4 times the threads.
extern "C" __global__ void copy_vectors(uint4* to, const uint4* from, u64 vectors) {
  for (size_t k = first(); k < vectors; k += 4 * step()) {
    uint4 values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = __ldcg(from + k + j * step());
#pragma unroll
    for (int j = 0; j < 4; ++j) to[k + j * step()] = values[j];
  }
}

// Each thread gets the xor of what it reads in all passes. If their number is odd, that is the xor of one
// pass.
extern "C" __global__ void read_vectors(unsigned* out, const uint4* from, u64 vectors, int passes) {
  unsigned sum = 0;
  for (int pass = 0; pass < passes; ++pass) {
    for (size_t k = first(); k < vectors; k += 4 * step()) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint4 value = __ldcg(from + k + j * step());
        sum ^= value.x ^ value.y ^ value.z ^ value.w;
      }
    }
  }
  out[first()] = sum;
}

extern "C" __global__ void fill_words(unsigned* to, u64 words, unsigned seed) {
  for (size_t k = first(); k < words; k += step()) to[k] = mixed((unsigned)k ^ seed);
}

// Counts the words that differ from what fill_words writes.
extern "C" __global__ void count_differences(u64* counts, const unsigned* words, u64 count, unsigned seed) {
  u64 wrong = 0;
  for (size_t k = first(); k < count; k += step()) wrong += words[k] != mixed((unsigned)k ^ seed);
  if (wrong) atomicAdd(&counts[0], wrong);
}
