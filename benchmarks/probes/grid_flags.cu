// Each block of a grid writes its slice of h to memory and releases a flag. All blocks poll all flags, read
// all slices through the L2, and begin the next round: a step of a kernel that holds weights on all
// multiprocessors.
#include "common.cuh"

DEVICE void release(unsigned* flag, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

DEVICE unsigned acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// What a block writes in an epoch. It differs between epochs, blocks and vectors.
DEVICE uint4 slice_of(unsigned epoch, unsigned block, int vector) {
  const unsigned word = epoch * 0x9e3779b9u + (block << 12) + vector;
  return make_uint4(word, ~word, word ^ 0x5a5a5a5au, word + 0x01234567u);
}

DEVICE unsigned difference(uint4 a, uint4 b) { return (a.x ^ b.x) | (a.y ^ b.y) | (a.z ^ b.z) | (a.w ^ b.w); }

// `slices` has two buffers. A flag has the last epoch of its block, and `distance` words to the next flag.
// Epochs go on from launch to launch. The launch is cooperative, so that all blocks run.
extern "C" __global__ void __launch_bounds__(256)
    flags_of_grid(u64* counts, uint4* slices, unsigned* flags, unsigned before, int rounds, int shift,
                  int distance) {
  const u64 begun = nanoseconds();
  const int vectors = 1 << shift, all = gridDim.x << shift;
  unsigned wrong = 0;
  bool late = false;
  for (unsigned epoch = before + 1; epoch != before + 1 + rounds; ++epoch) {
    uint4* buffer = slices + (epoch & 1) * (size_t)all;
    for (int vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
      uint4 value = slice_of(epoch, blockIdx.x, vector);
      value.x ^= wrong;  // depends on the round before, as a step does
      buffer[blockIdx.x * vectors + vector] = value;
    }
    __syncthreads();  // the slice is written, and all have read the buffer of the round before
    if (threadIdx.x == 0) release(&flags[blockIdx.x * distance], epoch);
    if (threadIdx.x < gridDim.x) {
      const unsigned* flag = &flags[threadIdx.x * distance];
      for (unsigned polls = 0; !late && (int)(acquire(flag) - epoch) < 0; ++polls)
        late = is_late(begun, polls);
    }
    if (__syncthreads_or(late)) break;
    for (int k = threadIdx.x; k < all; k += blockDim.x) {
      wrong |= difference(__ldcg(&buffer[k]), slice_of(epoch, k >> shift, k & (vectors - 1)));
    }
  }
  if (wrong || late) atomicAdd(&counts[0], 1ULL);
  if (threadIdx.x == 0) atomicAdd(&counts[1], (u64)rounds);
}
