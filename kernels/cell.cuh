// One unit of a cell, from the pre-activations of its gates. Every kernel that steps c uses this formula,
// which fusedlstm/weights.py states. The code spells out which products are rounded before they are added, so
// that all instances agree bit for bit.
#pragma once

#include "activations.cuh"
#include "primitives.cuh"

// A cell's parameters other than its weights.
template <typename T> struct Cell {
  const T* bias;      // (4N,), or null
  const T* peephole;  // (3, N), rows i, f, o; read with PEEPHOLE
  double clip;        // read with CLIP
  i64 N;
};

// The peephole weights of W units.
template <typename T, int W> struct Peepholes {
  Vector<T, W> i, f, o;
};

template <int W, typename T> DEVICE Peepholes<T, W> load_peepholes(const T* peephole, i64 unit, i64 N) {
  return {load<W>(peephole + unit), load<W>(peephole + N + unit), load<W>(peephole + 2 * N + unit)};
}

enum Coupled { NO_GATE, INPUT_GATE, FORGET_GATE };
static const u64 INFINITE = 0x7ff0000000000000;  // the bits of infinity

// All functions of a cell, as in `Functions` of fusedlstm/functions.py. INPUT makes g, OUTPUT is applied to
// c', and GATE makes the gates. COUPLED_GATE says which gate is one minus the other. CLIP_BITS bounds the
// pre-activations; INFINITE doesn't clip. The zoneouts are the parts of c and h to keep. The three numbers
// are the bits of doubles.
template <class INPUT = Function<TANH>, class OUTPUT = INPUT, class GATE = Function<SIGMOID>,
          int COUPLED_GATE = NO_GATE, u64 CLIP_BITS = INFINITE, u64 ZONEOUT_C_BITS = 0,
          u64 ZONEOUT_H_BITS = 0>
struct Functions {
  typedef INPUT Input;
  typedef OUTPUT Output;
  typedef GATE Gate;
  static const int COUPLED = COUPLED_GATE;
  static const u64 CLIP = CLIP_BITS;
  static const u64 ZONEOUT_C = ZONEOUT_C_BITS;
  static const u64 ZONEOUT_H = ZONEOUT_H_BITS;
};

// Clips a pre-activation, if the cell clips gates.
template <class FUNCTIONS, typename A> DEVICE A clip_gate(A z) {
  return FUNCTIONS::CLIP == INFINITE ? z : clip(z, A(of_bits(FUNCTIONS::CLIP)));
}

// Gate i, f or o, from its pre-activation.
template <class FUNCTIONS, bool FAST, typename A> DEVICE A gate_of(A z) {
  return activate<typename FUNCTIONS::Gate, FAST>(clip_gate<FUNCTIONS>(z));
}

// A gate, from its pre-activation, times a function of x.
template <class FUNCTIONS, class FUNCTION, bool FAST, typename A> DEVICE A gated(A z, A x) {
  const A clipped = clip_gate<FUNCTIONS>(z);
  if constexpr (FAST && FUNCTIONS::Gate::KIND == SIGMOID && FUNCTION::KIND == TANH) {
    return sigmoid_times_tangent_fast(clipped, x);
  } else {
    return activate<typename FUNCTIONS::Gate, FAST>(clipped) * activate<FUNCTION, FAST>(x);
  }
}

// The new state, with a part of the old one kept. PART is the bits of that part.
template <u64 PART, typename A> DEVICE A keep_part(A old, A next) {
  return PART == 0 ? next : multiply_and_add(A(of_bits(PART)), old, A(1 - of_bits(PART)) * next);
}

// The same for W elements of h, in their dtype. `old` is null for zeros.
template <u64 PART, typename T, int W> DEVICE Vector<T, W> keep_h(const T* old, const Vector<T, W>& next) {
  typedef typename Arithmetic<T>::type A;
  if constexpr (PART == 0) {
    return next;
  } else {
    Vector<T, W> h, before;
#pragma unroll
    for (int k = 0; k < W; ++k) before.at[k] = Narrow<T>::of(0);
    if (old) before = load<W>(old);
#pragma unroll
    for (int k = 0; k < W; ++k) {
      h.at[k] = Narrow<T>::of(keep_part<PART>(A(widen(before.at[k])), A(widen(next.at[k]))));
    }
    return h;
  }
}

// Adds W neighbouring elements of any storage type to z.
template <int W, typename A, typename T> DEVICE void add(A (&z)[W], const T* from) {
  const Vector<T, W> more = load<W>(from);
#pragma unroll
  for (int k = 0; k < W; ++k) z[k] += A(widen(more.at[k]));
}

// z has the pre-activations of gates i, f, g, o. Replaces c with the new one, and returns m.
template <class FUNCTIONS, bool PEEPHOLE, bool CLIP, bool FAST = false, typename T, int W, typename A>
DEVICE Vector<T, W> advance(const A (&z)[4][W], Vector<A, W>& c, const Peepholes<T, W>& p, double cell_clip) {
  Vector<T, W> m;
#pragma unroll
  for (int k = 0; k < W; ++k) {
    A z_i = z[0][k], z_f = z[1][k], z_o = z[3][k];
    if (PEEPHOLE) {
      z_i = multiply_and_add(A(widen(p.i.at[k])), c.at[k], z_i);
      z_f = multiply_and_add(A(widen(p.f.at[k])), c.at[k], z_f);
    }
    const A z_g = clip_gate<FUNCTIONS>(z[2][k]);
    A f, input;  // computed in an order that takes few registers
    if constexpr (FUNCTIONS::COUPLED == NO_GATE) {
      input = gated<FUNCTIONS, typename FUNCTIONS::Input, FAST>(z_i, z_g);
      f = gate_of<FUNCTIONS, FAST>(z_f);
    } else {
      constexpr bool OF_F = FUNCTIONS::COUPLED == INPUT_GATE;
      const A gate = gate_of<FUNCTIONS, FAST>(OF_F ? z_f : z_i), other = add_rounded(A(1), -gate);
      input = (OF_F ? other : gate) * activate<typename FUNCTIONS::Input, FAST>(z_g);
      f = OF_F ? gate : other;
    }
    A next = multiply_and_add(f, c.at[k], input);
    if (CLIP) next = clip(next, A(cell_clip));
    if (PEEPHOLE) z_o = multiply_and_add(A(widen(p.o.at[k])), next, z_o);
    c.at[k] = keep_part<FUNCTIONS::ZONEOUT_C>(c.at[k], next);
    m.at[k] = Narrow<T>::of(gated<FUNCTIONS, typename FUNCTIONS::Output, FAST>(z_o, next));
  }
  return m;
}

// Sums of W elements, each rounded once to their dtype: a residual layer's output.
template <typename T, int W> DEVICE Vector<T, W> sum(const Vector<T, W>& a, const Vector<T, W>& b) {
  Vector<T, W> total;
#pragma unroll
  for (int k = 0; k < W; ++k) total.at[k] = Narrow<T>::of(add_rounded(widen(a.at[k]), widen(b.at[k])));
  return total;
}

// A second place to write h, one row for each row of the batch.
template <typename T> struct Copy {
  Matrix<T> to;           // (B, columns), or null
  Matrix<const T> input;  // (B, columns), added to the copy; or null

  // Writes a row's h at a column. The caller passes zeros if the row takes no step; then nothing is added.
  template <int W> MEMBER void write(i64 row, i64 column, const Vector<T, W>& h, bool steps) const {
    if (!to.at) return;
    Vector<T, W> copied = h;
    if (input.at && steps) copied = sum(h, load<W>(input.at + row * input.stride + column));
    put(row, column, copied);
  }

  // The same, but with IDLE, rows that take no step get `last`, or zeros if it is null.
  template <bool IDLE, int W>
  MEMBER void write(i64 row, i64 column, const Vector<T, W>& h, bool steps,
                    const Matrix<const T>& last) const {
    if (IDLE && !steps) {
      repeat<W>(row, column, last);
    } else {
      write(row, column, h, steps);
    }
  }

  // Writes a row of `last`, or zeros if it is null.
  template <int W> MEMBER void repeat(i64 row, i64 column, const Matrix<const T>& last) const {
    Vector<T, W> copied = {};
    if (last.at) copied = load<W>(last.at + row * last.stride + column);
    if (to.at) put(row, column, copied);
  }

  template <int W> MEMBER void put(i64 row, i64 column, const Vector<T, W>& copied) const {
    store<W>(to.at + row * to.stride + column, copied);
  }
};
