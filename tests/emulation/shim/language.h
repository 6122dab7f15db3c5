// Built-in variables, shared memory and barriers.
#pragma once

// CUDA's own headers come first: some of the macros below are names in them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include "../runtime/runtime.h"

// What a kernel calls is inlined into it, so that the address a runtime function returns to is the kernel's
// line.
#define EMULATED static inline __attribute__((always_inline))
// The emulator's own work on memory, which the compiler must not report to the checker.
#define UNCHECKED __attribute__((noinline, no_sanitize("thread", "undefined")))

#define __launch_bounds__(...)

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())
#define gridDim (emulation::grid_size())
#define warpSize 32

// Shared memory has an address of its own in each block, which no storage class of C++ gives: hence these two
// macros.
#undef __shared__
#define __shared__ _Pragma("GCC error \"shared memory is declared by SHARED_ARRAY or DYNAMIC_SHARED_ARRAY\"")
#define SHARED_ARRAY(type, name, count) \
  static char name##_key;               \
  type(&name)[count] =                  \
      *static_cast<type(*)[count]>(emulation::shared_array(&name##_key, #name, sizeof(type), count))
#define DYNAMIC_SHARED_ARRAY(type, name) \
  type* name = static_cast<type*>(emulation::dynamic_shared_array(#name, sizeof(type)))

// A macro for its __LINE__: threads that meet at different ones are a fault.
#define __syncthreads() emulation::block_barrier(__LINE__)

// bar.sync: a barrier of some whole warps of the block.
EMULATED void named_barrier(int id, int threads) { emulation::named_barrier(id, threads); }

// In a loop that waits for another thread, this gives that thread its turn.
EMULATED void __nanosleep(unsigned) { emulation::yield_spin(); }
