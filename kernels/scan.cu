// Many steps of a layer in one launch, from x's part of all gates, for rows that no other block needs.
//
//   z    = x[t] + h weight.T + bias
//   c, h = as in cell.cuh
//   out[t] = h, or h + input[t]
//
// The weights of h stay in registers, and so does c. h is exchanged in shared memory. The sums start from x's
// part, go on in the order of K, and the bias comes last, as in step.cu.
#include "cell.cuh"
#include "scan_flags.cuh"
#include "scan_gates.cuh"

// One direction of a layer. Pointers may be null only if their comments say so.
template <typename T> struct ScanDirection {
  typedef typename Arithmetic<T>::type A;
  Series<const A> x;                  // (T, B, 4N): the gates i, f, g, o of a unit side by side
  Matrix<const T> weight;             // interleaved: see device_weights.py; from h's first column on
  Cell<T> cell;
  Matrix<const T> h;                  // (B, N) before the first step; null: zeros
  Matrix<const A> c;                  // the same for c
  Matrix<T> h_out;                    // (B, N) after the last step; may be h
  Matrix<A> c_out;                    // may be c
  Series<const unsigned char> flags;  // (T, B), bits of ScanFlag; null only without FLAGS, like the next three
  Matrix<const T> reset_h;            // (B, N), or one row; null: zeros
  Matrix<const A> reset_c;            // (B, N), or one row; null: zeros
  Matrix<T> last;                     // (B, N): each row's last output before, and after; null only without LAST
  Series<T> out;                      // (T, B, N)
  Series<const T> input;              // (T, B, N), added to the output; or null
  i64 reverse;                        // walks from the last step to the first
};

template <typename T> struct ScanArguments {
  ScanDirection<T> first, second;  // the second is read only by a grid of two directions
  i64 steps, B;

  MEMBER const ScanDirection<T>& direction(int k) const { return (&first)[k]; }  // indexed where it is
};

// What idle rows are: there are none, or their outputs are zeros, or the last ones.
enum Idle { NO_FLAGS, ZEROS, LAST };

// An array's row at a column, or null.
template <typename E> DEVICE E* row_at(const Matrix<E>& of, i64 row, i64 column) {
  return of.at ? of.at + row * of.stride + column : nullptr;
}

// The step `number` of a series that is walked forwards or backwards.
template <typename E> DEVICE Series<E> walked(const Series<E>& of, i64 steps, bool reverse) {
  if (!of.at || !reverse) return of;
  return {of.at + (steps - 1) * of.step, -of.step, of.row};
}

// The part of two units that exists, W of them at once. Others are zeros, and aren't written.
template <int W, typename E> DEVICE Vector<E, 2> load_units(const E* from, int exist) {
  Vector<E, 2> pair = {};
  if (!from) return pair;
  if constexpr (W == 2) {
    if (exist > 0) pair = load<2>(from);
  } else {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (e < exist) pair.at[e] = from[e];
    }
  }
  return pair;
}
template <int W, typename E> DEVICE void store_units(E* to, const Vector<E, 2>& pair, int exist) {
  if constexpr (W == 2) {
    if (exist > 0) store<2>(to, pair);
  } else {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (e < exist) to[e] = pair.at[e];
    }
  }
}

// Launched with rows on grid x and directions on grid y. W: 2 needs an even N, and addresses and strides that
// are multiples of 2 elements, of all arrays but x, weights and flags.
template <class Tile, class FUNCTIONS, bool PEEPHOLE, bool CLIP, int FLAGS, int W>
__global__ void __launch_bounds__(Tile::THREADS, 1) lstm_scan(const ScanArguments<typename Tile::T> a) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
  constexpr int ROWS = Tile::ROWS, BATCHES = Tile::BATCHES;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  unsigned char* const hs = shared + ScanGates<Tile>::BYTES;
  T* const lasts = reinterpret_cast<T*>(hs + 2 * Tile::H_BYTES);
  SHARED_ARRAY(unsigned char, kept_flags, ScanFlags<ROWS>::BYTES);
  SHARED_ARRAY(A, bias, 4 * Tile::UNITS);  // here, parameters take no registers
  SHARED_ARRAY(T, peepholes, 3 * Tile::UNITS);

  const ScanDirection<T>& d = a.direction(blockIdx.y);
  const i64 first_row = (i64)blockIdx.x * ROWS;
  const int count = a.B - first_row < ROWS ? int(a.B - first_row) : ROWS;
  const int N = (int)d.cell.N, unit = Tile::unit(), exist = N - unit;  // of the thread's units
  auto row_of = [&](int batch, int r) { return batch * 8 + Tile::row() + r; };

  const ScanGates<Tile> gates(shared);
  Series<const A> x = walked(d.x, a.steps, d.reverse);
  x.at += first_row * x.row;
#pragma unroll
  for (int batch = 0; batch < BATCHES; ++batch) {
    if (a.steps > 0) gates.queue(batch, x.at, x.row, count, N);
    copy_async_commit();
  }

  ScanFlags<ROWS> flags = {kept_flags, nullptr, 0, a.steps};
  if (FLAGS != NO_FLAGS) {
    const Series<const unsigned char> of = walked(d.flags, a.steps, d.reverse);
    if ((int)threadIdx.x < count) flags.from = of.at + (first_row + threadIdx.x) * of.row;
    flags.stride = of.step;
    flags.keep(0, flags.ahead(0));
    flags.keep(1, flags.ahead(1));
  }
  clear<Tile::THREADS>(hs, 2 * Tile::H_BYTES);
  Tile tile;
  tile.load_weights(d.weight, (N + Operands<T>::K - 1) / Operands<T>::K);
  for (int k = threadIdx.x; k < 4 * Tile::UNITS; k += Tile::THREADS) {
    const bool exists = k / 4 < N;
    bias[k] = d.cell.bias && exists ? A(widen(d.cell.bias[k % 4 * N + k / 4])) : A(0);
    if (PEEPHOLE && k % 4 < 3 && exists) peepholes[k % 4 * Tile::UNITS + k / 4] = d.cell.peephole[k % 4 * N + k / 4];
  }
  __syncthreads();

  // Where a thread keeps its last outputs of a row.
  auto last_at = [&](int batch, int r) { return lasts + ((batch * 2 + r) * Tile::THREADS + threadIdx.x) * 2; };
  Vector<A, 2> c[BATCHES][2];
#pragma unroll
  for (int k = 0; k < 2 * BATCHES; ++k) {
    const int row = row_of(k / 2, k % 2);
    const bool resets = FLAGS != NO_FLAGS && flags.is(0, row, RESETS);
    const int there = row < count ? exist : 0;
    c[k / 2][k % 2] = load_units<W>(row_at(resets ? d.reset_c : d.c, first_row + row, unit), there);
    store<2>(Tile::own(hs, row), load_units<W>(row_at(resets ? d.reset_h : d.h, first_row + row, unit), there));
    if (FLAGS == LAST) store<2>(last_at(k / 2, k % 2), load_units<W>(row_at(d.last, first_row + row, unit), there));
  }
  __syncthreads();

  Series<T> out = walked(d.out, a.steps, d.reverse);
  Series<const T> input = walked(d.input, a.steps, d.reverse);
  out.at += (first_row + Tile::row()) * out.row + unit;
  if (input.at) input.at += (first_row + Tile::row()) * input.row + unit;
#pragma unroll 1
  for (i64 step = 0; step < a.steps; ++step) {
    unsigned char* const now = hs + step % 2 * Tile::H_BYTES;
    unsigned char* const next = hs + (step + 1) % 2 * Tile::H_BYTES;
    const unsigned char ahead = FLAGS == NO_FLAGS ? 0 : flags.ahead(step + 2);
    x.at += x.step;
#pragma unroll
    for (int batch = 0; batch < BATCHES; ++batch) {
      float sums[2][2][4];
      copy_async_wait<BATCHES - 1>();
      __syncwarp();  // all lanes have copied x's part
      gates.start(batch, sums);
      __syncwarp();  // all lanes have read it
      if (step + 1 < a.steps) gates.queue(batch, x.at, x.row, count, N);
      copy_async_commit();
      Vector<T, 2> more[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const T* from = input.at ? input.at + (batch * 8 + r) * input.row : nullptr;
        more[r] = load_units<W>(from, row_of(batch, r) < count ? exist : 0);
      }
      tile.multiply(now, batch, sums);
      Vector<A, 4> bias_of[2];
      Peepholes<T, 2> peepholes_of;
#pragma unroll
      for (int e = 0; e < 2; ++e) bias_of[e] = load<4>(bias + 4 * (unit + e));
      if (PEEPHOLE) peepholes_of = load_peepholes<2>(peepholes, unit, Tile::UNITS);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = row_of(batch, r);
        A z[4][2];
#pragma unroll
        for (int k = 0; k < 8; ++k) z[k / 2][k % 2] = sums[k % 2][k / 4][k / 2 % 2 * 2 + r] + bias_of[k % 2].at[k / 2];
        Vector<A, 2>& state = c[batch][r];
        const Vector<A, 2> before = state;
        Vector<T, 2> h = advance<FUNCTIONS, PEEPHOLE, CLIP, true>(z, state, peepholes_of, d.cell.clip);
        h = keep_h<FUNCTIONS::ZONEOUT_H>(Tile::own(now, row), h);
        Vector<T, 2> output = input.at ? sum(h, more[r]) : h;
        if (FLAGS != NO_FLAGS) {
          const bool idle = flags.is(step, row, IDLE);
          const Vector<T, 2> old = load<2>(Tile::own(now, row));
          Vector<T, 2> instead = {};
          if (FLAGS == LAST) instead = load<2>(last_at(batch, r));
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            state.at[e] = idle ? before.at[e] : state.at[e];
            h.at[e] = idle ? old.at[e] : h.at[e];
            output.at[e] = idle ? instead.at[e] : output.at[e];
          }
          if (FLAGS == LAST) store<2>(last_at(batch, r), output);
          if (flags.is(step + 1, row, RESETS)) {
            const int there = row < count ? exist : 0;
            h = load_units<W>(row_at(d.reset_h, first_row + row, unit), there);
            state = load_units<W>(row_at(d.reset_c, first_row + row, unit), there);
          }
        }
        store_units<W>(Tile::own(next, row), h, exist);  // other units stay zeros
        if (row < count) store_units<W>(out.at + (batch * 8 + r) * out.row, output, exist);
      }
    }
    out.at += out.step;
    if (input.at) input.at += input.step;
    if (FLAGS != NO_FLAGS) flags.keep(step + 2, ahead);
    __syncthreads();  // all of h is written, and nobody reads the old one any more
  }

  unsigned char* const final = hs + a.steps % 2 * Tile::H_BYTES;
#pragma unroll
  for (int k = 0; k < 2 * BATCHES; ++k) {
    const int row = row_of(k / 2, k % 2);
    if (row >= count) continue;
    store_units<W>(row_at(d.c_out, first_row + row, unit), c[k / 2][k % 2], exist);
    store_units<W>(row_at(d.h_out, first_row + row, unit), load<2>(Tile::own(final, row)), exist);
    if (FLAGS == LAST) store_units<W>(row_at(d.last, first_row + row, unit), load<2>(last_at(k / 2, k % 2)), exist);
  }
}
