// Rounds of a cluster's barrier. `checked` also passes a word from block to block in each round.
#include "common.cuh"

DEVICE unsigned address(const void* shared) { return (unsigned)__cvta_generic_to_shared(shared); }

DEVICE unsigned load_of_block(const unsigned* shared, unsigned block) {
  unsigned there, value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(shared)), "r"(block));
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(there) : "memory");
  return value;
}

DEVICE void barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <int BLOCKS, bool CHECKED> DEVICE void rounds_of_barriers(u64* counts, int rounds) {
  __shared__ unsigned words[2];
  unsigned blocks, wrong = 0;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  if (blocks != BLOCKS) wrong = 1;
  for (int round = 1; round <= rounds; ++round) {
    // The other word may still be read: its readers pass the next barrier afterwards.
    if (CHECKED && threadIdx.x == 0) *(volatile unsigned*)&words[round & 1] = round;
    if (CHECKED) __syncwarp();  // whole warps take part in a barrier
    barrier();
    if (CHECKED && threadIdx.x < BLOCKS && load_of_block(&words[round & 1], threadIdx.x) != round) ++wrong;
    if (CHECKED) __syncwarp();
  }
  if (CHECKED) barrier();  // no block leaves while others read its words
  if (wrong) atomicAdd(&counts[0], (u64)wrong);
  if (threadIdx.x == 0) atomicAdd(&counts[1], (u64)rounds);
}

#define KERNELS(blocks)                                                            \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256) \
      timed_##blocks(u64* counts, int rounds) {                                    \
    rounds_of_barriers<blocks, false>(counts, rounds);                             \
  }                                                                                \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256) \
      checked_##blocks(u64* counts, int rounds) {                                  \
    rounds_of_barriers<blocks, true>(counts, rounds);                              \
  }

KERNELS(2)
KERNELS(4)
KERNELS(8)
KERNELS(16)
