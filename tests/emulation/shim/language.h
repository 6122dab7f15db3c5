// Built-in variables, shared memory and barriers.
#pragma once

// CUDA's headers come first, as they use names that are macros below.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include "../runtime/runtime.h"

// Inlined into the kernel, so that runtime functions return to an address of the kernel's line.
#define EMULATED static inline __attribute__((always_inline))
// The emulator's own accesses, which the compiler must not report to the checker.
#define UNCHECKED __attribute__((noinline, no_sanitize("thread", "undefined")))

#define __launch_bounds__(...)

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())
#define gridDim (emulation::grid_size())
#define warpSize 32

// Shared memory has another address in each block. C++ has no storage class for that, so these are macros.
#undef __shared__
#define __shared__ _Pragma("GCC error \"declare shared memory with SHARED_ARRAY or DYNAMIC_SHARED_ARRAY\"")
#define SHARED_ARRAY(type, name, count) \
  static char name##_key;               \
  type(&name)[count] =                  \
      *static_cast<type(*)[count]>(emulation::shared_array(&name##_key, #name, sizeof(type), count))
#define DYNAMIC_SHARED_ARRAY(type, name) \
  type* name = static_cast<type*>(emulation::dynamic_shared_array(#name, sizeof(type)))

// A macro for the sake of __LINE__, as threads that meet at different lines are a fault.
#define __syncthreads() emulation::block_barrier(__LINE__)

// bar.sync: a barrier of some of the block's warps.
EMULATED void named_barrier(int id, int threads) { emulation::named_barrier(id, threads); }

// In a loop that waits for another thread, this gives that thread its turn.
EMULATED void __nanosleep(unsigned) { emulation::yield_spin(); }
