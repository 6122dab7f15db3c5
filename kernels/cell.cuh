// One unit of a cell, from the pre-activations of its gates: the formula that every kernel of a step ends
// with. Which products are rounded before they are added is written out, so that all instances agree in bits.
#pragma once

#include "activations.cuh"
#include "primitives.cuh"

// The peephole weights of W units.
template <typename T, int W> struct Peepholes {
  Vector<T, W> i, f, o;
};

template <int W, typename T> DEVICE Peepholes<T, W> load_peepholes(const T* peephole, i64 unit, i64 N) {
  return {load<W>(peephole + unit), load<W>(peephole + N + unit), load<W>(peephole + 2 * N + unit)};
}

// Adds W neighbouring elements, any storage type.
template <int W, typename A, typename T> DEVICE void add(A (&z)[W], const T* from) {
  const Vector<T, W> more = load<W>(from);
#pragma unroll
  for (int k = 0; k < W; ++k) z[k] += A(widen(more.at[k]));
}

// z: gates i, f, g, o. Replaces c by the new one, and returns m = o * activation(c').
template <int ACTIVATION, bool PEEPHOLE, bool CLIP, bool FAST = false, typename T, int W, typename A>
DEVICE Vector<T, W> advance(const A (&z)[4][W], Vector<A, W>& c, const Peepholes<T, W>& p, double cell_clip) {
  Vector<T, W> m;
#pragma unroll
  for (int k = 0; k < W; ++k) {
    A z_i = z[0][k], z_f = z[1][k], z_o = z[3][k];
    if (PEEPHOLE) {
      z_i = multiply_and_add(A(widen(p.i.at[k])), c.at[k], z_i);
      z_f = multiply_and_add(A(widen(p.f.at[k])), c.at[k], z_f);
    }
    const A input = sigmoid<FAST>(z_i) * activate<ACTIVATION, FAST>(z[2][k]);
    A next = multiply_and_add(sigmoid<FAST>(z_f), c.at[k], input);
    if (CLIP) next = clip(next, A(cell_clip));
    if (PEEPHOLE) z_o = multiply_and_add(A(widen(p.o.at[k])), next, z_o);
    c.at[k] = next;
    m.at[k] = Narrow<T>::of(sigmoid<FAST>(z_o) * activate<ACTIVATION, FAST>(next));
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
