// Copies of rows, as cudaMemcpy2DAsync does them, and what checks them.
#include "common.cuh"

// Copies rows of `vectors` vectors of 16 bytes. Pitches are in vectors. A block copies blockDim.y rows at
// once.
extern "C" __global__ void copy_rows(uint4* to, u64 to_pitch, const uint4* from, u64 pitch, u64 rows,
                                     u64 vectors) {
  for (u64 row = blockIdx.x * (u64)blockDim.y + threadIdx.y; row < rows; row += gridDim.x * (u64)blockDim.y)
    for (u64 k = threadIdx.x; k < vectors; k += blockDim.x) to[row * to_pitch + k] = from[row * pitch + k];
}

// Fills the rows and their gaps. A word's value depends on its index.
extern "C" __global__ void fill_rows(unsigned* to, u64 words, unsigned seed) {
  const u64 step = gridDim.x * (u64)blockDim.x;
  for (u64 k = blockIdx.x * (u64)blockDim.x + threadIdx.x; k < words; k += step)
    to[k] = mixed((unsigned)k ^ seed);
}

// Counts the words of contiguous rows that differ from the rows that fill_rows writes.
extern "C" __global__ void count_wrong_rows(u64* counts, const unsigned* words, u64 rows, u64 columns,
                                            u64 pitch, unsigned seed) {
  u64 wrong = 0;
  const u64 step = gridDim.x * (u64)blockDim.x;
  for (u64 k = blockIdx.x * (u64)blockDim.x + threadIdx.x; k < rows * columns; k += step) {
    const u64 at = k / columns * pitch + k % columns;
    wrong += words[k] != mixed((unsigned)at ^ seed);
  }
  if (wrong) atomicAdd(&counts[0], wrong);
}
