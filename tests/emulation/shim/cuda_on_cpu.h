// CUDA's language for a CPU's C++ compiler. Included before a kernel's file, it lets the file compile
// unchanged. Vector types, __half and __nv_bfloat16 come from CUDA's own headers.
#pragma once

// Tells kernels/primitives.cuh that its PTX has twins here.
#define CUDA_EMULATION 1

#include "async_copy.h"
#include "atomics.h"
#include "device_math.h"
#include "language.h"
#include "tensor_cores.h"
#include "warp.h"
