// The functions of fusedlstm/functions.py, in float and double. NaN gives NaN. Functions that saturate
// are exact where they do. The softsign of an infinity is NaN, as in TensorFlow.
//
// FAST is for gates from products of 16 bits or TF32. It computes sigmoid and tanh from the hardware's
// approximations of exp(x) and 1 / x. Their absolute error is about 2^-21, even for small numbers.
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

// 1 / (1 + exp(-x)), computed from exp(-|x|), which is in (0, 1] and can't overflow.
template <bool FAST = false, typename A> DEVICE A sigmoid(A x) {
  A e, small;  // exp(-|x|) and sigmoid(|x|)
  if constexpr (FAST) {
    e = exponential_approx(-magnitude(x));
    small = reciprocal_approx(1 + e);
  } else {
    e = exponential(-magnitude(x));
    small = A(1) / (A(1) + e);
  }
  return x < A(0) ? e * small : small;
}

// (1 - e) / (1 + e) with the sign of x, where e = exp(-2 |x|), which can't overflow either.
DEVICE float hyperbolic_tangent_fast(float x) {
  const float e = exponential_approx(-2 * magnitude(x));
  return copysignf((1 - e) * reciprocal_approx(1 + e), x);
}

// sigmoid(x) * tanh(y), as above, with one reciprocal for both. Its divisor is in (1, 4].
DEVICE float sigmoid_times_tangent_fast(float x, float y) {
  const float e = exponential_approx(-magnitude(x)), f = exponential_approx(-2 * magnitude(y));
  return copysignf((x < 0 ? e : 1) * (1 - f) * reciprocal_approx((1 + e) * (1 + f)), y);
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

// A function and the bits of its parameters, which are doubles. A missing parameter is 0.
template <int NAME, u64 ALPHA_BITS = 0, u64 BETA_BITS = 0> struct Function {
  static_assert(NAME >= TANH && NAME <= HARD_SIGMOID, "unknown function");
  static const int KIND = NAME;
  static const u64 ALPHA = ALPHA_BITS, BETA = BETA_BITS;
};

static const u64 TWO = 0x4000000000000000;  // the bits of 2.0

// This, too, spells out which products are rounded before they are added: see cell.cuh.
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
    // A large alpha would magnify the approximation's error.
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
