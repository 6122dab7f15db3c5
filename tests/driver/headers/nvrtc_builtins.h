// Functions that NVRTC knows without a header, and that kernels of CuPy and of tests use.
#pragma once

// CuPy's float16.cuh then takes CUDA's own half.
#define __CUDACC_VER_MAJOR__ 13

#include <cassert>
#include <cmath>

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

// A clock that runs fast, so that a kernel which waits for it ends soon.
inline long long clock64() {
  static long long ticks = 0;
  return ticks += 1000000;
}
