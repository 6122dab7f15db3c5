// The activations, in float and double. NaN in is NaN out; functions that saturate are exact there. The
// softsign of an infinity is NaN, as in TensorFlow.
//
// FAST, for results that are rounded to 16 bits: by the hardware's approximations, some 2^-21 off, and of
// small numbers that is not relative to them.
#pragma once

#include "primitives.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float exponential_minus_1(float x) { return expm1f(x); }
DEVICE double exponential_minus_1(double x) { return expm1(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
DEVICE float magnitude(float x) { return fabsf(x); }
DEVICE double magnitude(double x) { return fabs(x); }

// 1 / (1 + exp(-x)), by the exponential that can't overflow: exp(-|x|) is in (0, 1].
template <bool FAST = false, typename A> DEVICE A sigmoid(A x) {
  A e, small;  // of |x|
  if constexpr (FAST) {
    e = exponential_approx(-magnitude(x));
    small = reciprocal_approx(1 + e);
  } else {
    e = exponential(-magnitude(x));
    small = A(1) / (A(1) + e);
  }
  return x < A(0) ? e * small : small;
}

// (1 - e) / (1 + e) of e = exp(-2 |x|), which can't overflow either, with the sign of x.
DEVICE float hyperbolic_tangent_fast(float x) {
  const float e = exponential_approx(-2 * magnitude(x));
  return copysignf((1 - e) * reciprocal_approx(1 + e), x);
}

// Numbered as ACTIVATIONS in fusedlstm/weights.py.
enum Activation { TANH, RELU, SIGMOID, SOFTSIGN, ELU, LINEAR };

template <int KIND, bool FAST = false, typename A> DEVICE A activate(A x) {
  static_assert(KIND >= TANH && KIND <= LINEAR, "unknown activation");
  if constexpr (KIND == TANH && FAST) return hyperbolic_tangent_fast(x);
  if (KIND == TANH) return hyperbolic_tangent(x);
  if (KIND == RELU) return x < A(0) ? A(0) : x;
  if (KIND == SIGMOID) return sigmoid<FAST>(x);
  if (KIND == SOFTSIGN) return x / (A(1) + magnitude(x));
  if (KIND == ELU) return x > A(0) ? x : exponential_minus_1(x);
  return x;
}

// Clips to +-limit; NaN passes, infinities are clipped.
template <typename A> DEVICE A clip(A x, A limit) { return x > limit ? limit : x < -limit ? -limit : x; }
