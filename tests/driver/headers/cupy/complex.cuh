// In the place of CuPy's header of this name, which is the first that its kernels include. No kernel here computes with
// complex numbers. But CuPy's other headers use functions that NVRTC knows without a header.
#pragma once

// CuPy's float16.cuh then takes CUDA's own half.
#define __CUDACC_VER_MAJOR__ 13

#include <cassert>
#include <cmath>

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline long long clock64() {
  static long long ticks = 0;
  return ticks += 1000000;
}

inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
