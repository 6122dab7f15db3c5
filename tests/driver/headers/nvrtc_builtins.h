// Functions that NVRTC knows without a header. Kernels of CuPy and of tests use them.
#pragma once

// Makes CuPy's float16.cuh use CUDA's own half.
#define __CUDACC_VER_MAJOR__ 13

#include <cassert>
#include <cmath>

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

// A fast clock, so that kernels that wait for it end soon.
inline long long clock64() {
  static long long ticks = 0;
  return ticks += 1000000;
}
