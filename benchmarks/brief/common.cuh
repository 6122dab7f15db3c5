// What the probes share. NVRTC compiles this without any header.
#pragma once

typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__

// No kernel waits longer for another block.
const u64 MOST_NANOSECONDS = 2000000000;

DEVICE u64 nanoseconds() {
  u64 now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Whether a kernel that began at `begun` has waited too long. The timer is slow, so most polls don't read it.
DEVICE bool is_late(u64 begun, unsigned polls) {
  return polls % 64 == 63 && nanoseconds() - begun > MOST_NANOSECONDS;
}

// Mixes bits, so that each index gives different data.
DEVICE unsigned mixed(unsigned x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}
