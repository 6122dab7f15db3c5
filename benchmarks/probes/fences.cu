// Rounds of a store by each thread, and a fence behind it, by one thread of a block or by all. Between them
// are barriers of the block, as in a step that releases what its block has stored.
#include "common.cuh"

enum Kind { NONE, THREADFENCE, ACQ_REL, SC, ACQ_REL_OF_CLUSTER, RELEASE };

template <int KIND> DEVICE void fence(unsigned* flag, unsigned round) {
  if (KIND == THREADFENCE) __threadfence();
  if (KIND == ACQ_REL) asm volatile("fence.acq_rel.gpu;" ::: "memory");
  if (KIND == SC) asm volatile("fence.sc.gpu;" ::: "memory");
#if __CUDA_ARCH__ >= 900
  if (KIND == ACQ_REL_OF_CLUSTER) asm volatile("fence.acq_rel.cluster;" ::: "memory");
#endif
  if (KIND == RELEASE) asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(round) : "memory");
}

template <int KIND> DEVICE void stores(u64* counts, unsigned* out, int rounds, int fencing) {
  unsigned* own = out + 2 * (blockIdx.x * blockDim.x + threadIdx.x);  // a word, and a flag
  for (int round = 1; round <= rounds; ++round) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(own), "r"(round) : "memory");
    __syncthreads();
    if (threadIdx.x < fencing) fence<KIND>(own + 1, round);
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(&counts[1], (u64)rounds);
}

#define KERNEL(name, kind)                                        \
  extern "C" __global__ void __launch_bounds__(256)               \
      name(u64* counts, unsigned* out, int rounds, int fencing) { \
    stores<kind>(counts, out, rounds, fencing);                   \
  }

KERNEL(none, NONE)
KERNEL(threadfence, THREADFENCE)
KERNEL(acq_rel, ACQ_REL)
KERNEL(sc, SC)
KERNEL(acq_rel_of_cluster, ACQ_REL_OF_CLUSTER)
KERNEL(release_store, RELEASE)
