// CUDA's language for a C++ compiler of the CPU: included before a kernel's file, which then compiles
// unchanged. The vector types, __half and __nv_bfloat16 are those of CUDA's own headers.
#pragma once

// Says to kernels/primitives.cuh that its PTX has twins here.
#define CUDA_EMULATION 1

#include "async_copy.h"
#include "atomics.h"
#include "device_math.h"
#include "language.h"
#include "tensor_cores.h"
#include "warp.h"
