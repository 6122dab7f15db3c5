// The functions of fusedlstm/functions.py, in float and double. NaN in is NaN out; functions that saturate
// are exact there. The softsign of an infinity is NaN, as in TensorFlow.
//
// FAST, for results that are rounded to 16 bits: sigmoid and tanh by the hardware's approximations, some
// 2^-21 off, and of small numbers that is not relative to them.
#pragma once

#include "primitives.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float exponential_minus_1(float x) { return expm1f(x); }
DEVICE double exponential_minus_1(double x) { return expm1(x); }
DEVICE float log_1_plus(float x) { return log1pf(x); }
DEVICE double log_1_plus(double x) { return log1p(x); }
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

// The names of fusedlstm/functions.py.
enum Name {
  TANH,
  RELU,
  SIGMOID,
  SOFTSIGN,
  ELU,
  LINEAR,
  SOFTPLUS,
  AFFINE,
  LEAKY_RELU,
  THRESHOLDED_RELU,
  SCALED_TANH,
  HARD_SIGMOID
};

// A function, with the bits of its parameters, which are doubles; 0 for those that it does not have.
template <int NAME, u64 ALPHA_BITS = 0, u64 BETA_BITS = 0> struct Function {
  static_assert(NAME >= TANH && NAME <= HARD_SIGMOID, "unknown function");
  static const int KIND = NAME;
  static const u64 ALPHA = ALPHA_BITS, BETA = BETA_BITS;
};

static const u64 TWO = 0x4000000000000000;  // the bits of 2.0

// Which products are rounded before they are added is written out here, too: see cell.cuh.
template <class FUNCTION, bool FAST = false, typename A> DEVICE A activate(A x) {
  constexpr int KIND = FUNCTION::KIND;
  const A alpha = A(of_bits(FUNCTION::ALPHA)), beta = A(of_bits(FUNCTION::BETA));
  if constexpr (KIND == TANH && FAST) return hyperbolic_tangent_fast(x);
  if (KIND == TANH) return hyperbolic_tangent(x);
  if (KIND == RELU) return x < A(0) ? A(0) : x;
  if (KIND == SIGMOID) return sigmoid<FAST>(x);
  if (KIND == SOFTSIGN) return x / (A(1) + magnitude(x));
  if (KIND == ELU) return x > A(0) ? x : alpha * exponential_minus_1(x);
  if (KIND == SOFTPLUS) return add_rounded(x < A(0) ? A(0) : x, log_1_plus(exponential(-magnitude(x))));
  if (KIND == AFFINE) return multiply_and_add(alpha, x, beta);
  if (KIND == LEAKY_RELU) return x < A(0) ? alpha * x : x;
  if (KIND == THRESHOLDED_RELU) return x <= alpha ? A(0) : x;
  if constexpr (KIND == SCALED_TANH) {
    // Of a large alpha, and a small beta, an approximation's error is large, too.
    constexpr bool APPROXIMATE = FAST && (FUNCTION::ALPHA << 1 >> 1) <= TWO;
    return alpha * activate<Function<TANH>, APPROXIMATE>(beta * x);
  }
  if (KIND == HARD_SIGMOID) {
    const A line = multiply_and_add(alpha, x, beta);
    return line < A(0) ? A(0) : line > A(1) ? A(1) : line;
  }
  return x;
}

// Clips to +-limit; NaN passes, infinities are clipped.
template <typename A> DEVICE A clip(A x, A limit) { return x > limit ? limit : x < -limit ? -limit : x; }
