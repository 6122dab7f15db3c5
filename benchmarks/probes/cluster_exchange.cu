// Each block of a cluster sends its slice of h to all of them by st.async, which completes bytes on an
// mbarrier there. It waits for all slices, reads them, and begins the next round: the exchange of a step.
#include "common.cuh"

const int MOST_VECTORS = 128;  // of 16 bytes, in a slice

DEVICE unsigned address(const void* shared) { return (unsigned)__cvta_generic_to_shared(shared); }

DEVICE unsigned address_in(unsigned shared, unsigned block) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(block));
  return there;
}

DEVICE void send(unsigned to, uint4 value, unsigned full) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(full)
      : "memory");
}

DEVICE void expect(unsigned full, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(bytes) : "memory");
}

// CLUSTER: acquires at the cluster's scope, as the memory model wants it, and not only at the block's.
template <bool CLUSTER> DEVICE bool is_full(unsigned full, unsigned parity) {
  unsigned yes;
#define TRY_WAIT(scope)                         \
  asm volatile(                                 \
      "{\n"                                     \
      ".reg .pred full;\n"                      \
      "mbarrier.try_wait.parity.acquire." scope \
      ".shared::cta.b64 full, [%1], %2;\n"      \
      "selp.u32 %0, 1, 0, full;\n"              \
      "}"                                       \
      : "=r"(yes)                               \
      : "r"(full), "r"(parity)                  \
      : "memory")
  if (CLUSTER) {
    TRY_WAIT("cluster");
  } else {
    TRY_WAIT("cta");
  }
#undef TRY_WAIT
  return yes;
}

DEVICE void barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What a block sends in a round. It differs between rounds, blocks and vectors.
DEVICE uint4 slice_of(int round, unsigned block, int vector) {
  const unsigned word = round * 0x9e3779b9u + (block << 12) + vector;
  return make_uint4(word, ~word, word ^ 0x5a5a5a5au, word + 0x01234567u);
}

DEVICE unsigned difference(uint4 a, uint4 b) { return (a.x ^ b.x) | (a.y ^ b.y) | (a.z ^ b.z) | (a.w ^ b.w); }

template <int BLOCKS, bool CLUSTER> DEVICE void exchange(u64* counts, int rounds, int shift) {
  const int vectors = 1 << shift;  // a division would take longer than what is measured
  __shared__ uint4 slices[2][BLOCKS * MOST_VECTORS];
  __shared__ u64 barriers[2];
  const u64 begun = nanoseconds();
  const unsigned bytes = BLOCKS * vectors * sizeof(uint4);
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) {
    for (int k = 0; k < 2; ++k) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(&barriers[k])) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (int k = 0; k < 2; ++k) expect(address(&barriers[k]), bytes);
  }
  __syncwarp();  // whole warps take part in a barrier
  barrier();     // nobody sends before all are ready

  unsigned wrong = 0;
  bool late = false;
  for (int round = 0; round < rounds; ++round) {
    const int buffer = round & 1;
    const unsigned full = address(&barriers[buffer]), parity = round >> 1 & 1;
    for (int vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
      uint4 value = slice_of(round, rank, vector);
      value.x ^= wrong;  // depends on the round before, as a step does
      const unsigned to = address(&slices[buffer][rank * vectors + vector]);
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
        send(address_in(to, block), value, address_in(full, block));
    }
    for (unsigned polls = 0; !late && !is_full<CLUSTER>(full, parity); ++polls) late = is_late(begun, polls);
    // Armed for the round after the next: until this block sends again, nobody sends to this buffer.
    if (threadIdx.x == 0) expect(full, bytes);
    for (int k = threadIdx.x; k < BLOCKS * vectors; k += blockDim.x) {
      wrong |= difference(slices[buffer][k], slice_of(round, k >> shift, k & (vectors - 1)));
    }
    if (__syncthreads_or(late)) break;  // all have read before anybody sends again
  }
  barrier();  // no block leaves while others write to it
  if (wrong || late) atomicAdd(&counts[0], 1ULL);
  if (threadIdx.x == 0) atomicAdd(&counts[1], (u64)rounds);
}

#define KERNEL(name, blocks, cluster)                                              \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256) \
      name(u64* counts, int rounds, int shift) {                                   \
    exchange<blocks, cluster>(counts, rounds, shift);                              \
  }

KERNEL(exchange_4_cluster, 4, true)
KERNEL(exchange_4_cta, 4, false)
KERNEL(exchange_8_cluster, 8, true)
KERNEL(exchange_8_cta, 8, false)
