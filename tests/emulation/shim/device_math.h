// Functions of device code: approximations, bits, cached loads and stores.
#pragma once

#include <cmath>
#include <cstring>

#include "language.h"

// Macros, as the C library has functions of the first two names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
EMULATED float __fdividef(float a, float b) { return a / b; }
EMULATED float __frcp_rn(float a) { return 1.0f / a; }
EMULATED float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Never contracted with an operand that is a product.
EMULATED float __fadd_rn(float a, float b) {
  asm("" : "+x"(a), "+x"(b));
  return a + b;
}
EMULATED double __dadd_rn(double a, double b) {
  asm("" : "+x"(a), "+x"(b));
  return a + b;
}
EMULATED float rsqrtf(float a) { return 1.0f / sqrtf(a); }
EMULATED double rsqrt(double a) { return 1.0 / sqrt(a); }
// tanh.approx.f32: exact here, 2^-11 off on a GPU.
EMULATED float tanh_approx(float x) { return tanhf(x); }
// On a GPU, both are a few units in the last place off.
EMULATED float exponential_approx(float x) { return expf(x); }
EMULATED float reciprocal_approx(float x) { return 1.0f / x; }
EMULATED __half __hfma(__half a, __half b, __half c) {
  return __float2half_rn(static_cast<float>(double(__half2float(a)) * __half2float(b) + __half2float(c)));
}

EMULATED unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
EMULATED float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
EMULATED double __longlong_as_double(long long bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
EMULATED int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATED int __ffs(int x) { return __builtin_ffs(x); }
EMULATED int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class T> EMULATED T min(T a, T b) { return b < a ? b : a; }
template <class T> EMULATED T max(T a, T b) { return a < b ? b : a; }

// There are no caches here.
template <class T> EMULATED T __ldg(const T* from) { return *from; }
template <class T> EMULATED T __ldcs(const T* from) { return *from; }
template <class T> EMULATED T __ldcg(const T* from) { return *from; }
template <class T> EMULATED void __stcs(T* to, T value) { *to = value; }
template <class T> EMULATED void __stcg(T* to, T value) { *to = value; }
