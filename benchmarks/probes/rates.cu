// Rates of instructions in registers: chains that don't wait for each other, as many as a step has.
#include "common.cuh"

const int CHAINS = 8;

DEVICE void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// `operands` has each lane's registers: 4 of a, and 2 of b. Each thread writes its 4 sums of each chain.
template <bool BF16> DEVICE void products(float* out, const unsigned* operands, int rounds) {
  const int lane = threadIdx.x % 32;
  unsigned a[4], b[2];
#pragma unroll
  for (int k = 0; k < 4; ++k) a[k] = operands[6 * lane + k];
#pragma unroll
  for (int k = 0; k < 2; ++k) b[k] = operands[6 * lane + 4 + k];
  float sums[CHAINS][4] = {};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < CHAINS; ++chain)
      BF16 ? mma_bf16(sums[chain], a, b) : mma_tf32(sums[chain], a, b);
  }
  const size_t first = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * CHAINS * 4;
#pragma unroll
  for (int chain = 0; chain < CHAINS; ++chain) {
#pragma unroll
    for (int k = 0; k < 4; ++k) out[first + 4 * chain + k] = sums[chain][k];
  }
}

enum Function { EX2, TANH, RCP, FMA };

template <int FUNCTION> DEVICE float value_of(float x) {
  // Of -x, as a chain of 2^x would overflow.
  if (FUNCTION == EX2) asm volatile("neg.ftz.f32 %0, %0; ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  if (FUNCTION == TANH) asm volatile("tanh.approx.f32 %0, %0;" : "+f"(x));
  // Of x + 1, as the assembler would drop the reciprocal of a reciprocal.
  if (FUNCTION == RCP) asm volatile("add.ftz.f32 %0, %0, 0f3F800000; rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  if (FUNCTION == FMA)
    asm volatile("fma.rn.ftz.f32 %0, %0, 0f3F000000, 0f3E800000;" : "+f"(x));  // x / 2 + 1 / 4
  return x;
}

// Each thread applies the function again and again to CHAINS numbers.
template <int FUNCTION> DEVICE void values(float* out, const float* from, int rounds) {
  const size_t first = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * CHAINS;
  float x[CHAINS];
#pragma unroll
  for (int chain = 0; chain < CHAINS; ++chain) x[chain] = from[first + chain];
#pragma unroll 16
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < CHAINS; ++chain) x[chain] = value_of<FUNCTION>(x[chain]);
  }
#pragma unroll
  for (int chain = 0; chain < CHAINS; ++chain) out[first + chain] = x[chain];
}

#define PRODUCTS(name, bf16)                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) name(float* out, const unsigned* operands, int rounds) { \
    products<bf16>(out, operands, rounds);                                                                   \
  }
#define VALUES(name, function)                                                                        \
  extern "C" __global__ void __launch_bounds__(256) name(float* out, const float* from, int rounds) { \
    values<function>(out, from, rounds);                                                              \
  }

PRODUCTS(rate_of_bf16, true)
PRODUCTS(rate_of_tf32, false)
VALUES(rate_of_ex2, EX2)
VALUES(rate_of_tanh, TANH)
VALUES(rate_of_rcp, RCP)
VALUES(rate_of_fma, FMA)
