// Many steps of a layer in one launch, from x's part of all gates. A block has all units of its rows, so it
// waits for no other block.
//
//   z    = x[t] + h weight.T + bias
//   c, h = as in cell.cuh
//   out[t] = h, or h + input[t]
//
// With a projection, the function of cell.cuh returns m, and h = clip(m projection.T).
//
// The weights of h stay in registers, or in shared memory if registers are full. h is exchanged in shared
// memory. As in step.cu, the sums start from x's part and go on in the order of K, and the bias comes last.
// With 8 rows c stays in registers, too. More rows take turns in one loop, whose code stays in the
// instruction cache, and c waits in shared memory.
#include "cell.cuh"
#include "scan_flags.cuh"
#include "scan_gates.cuh"

// One direction of a layer. Pointers may be null only if their comments say so.
template <typename T> struct ScanDirection {
  typedef typename Arithmetic<T>::type A;
  Series<const A> x;       // (T, B, 4N): the gates i, f, g, o of a unit side by side
  Matrix<const T> weight;  // interleaved: see device_weights.py; from h's first column on
  Cell<T> cell;
  Matrix<const T> h;                  // (B, P) before the first step; null: zeros
  Matrix<const A> c;                  // (B, N), the same for c
  Matrix<T> h_out;                    // (B, P) after the last step; may be h
  Matrix<A> c_out;                    // may be c
  Series<const unsigned char> flags;  // (T, B), see flags.cuh; null only without FLAGS, like the next three
  Matrix<const T> reset_h;            // (B, P), or one row; null: zeros
  Matrix<const A> reset_c;            // (B, N), or one row; null: zeros
  Matrix<T> last;         // (B, P): each row's last output before, and after; null only without LAST
  Series<T> out;          // (T, B, P)
  Series<const T> input;  // (T, B, P), added to the output; or null
  i64 reverse;            // walks from the last step to the first
  Matrix<const T>
      projection;    // (P rounded up to 128, N padded), see device_weights.py; null only without one
  double proj_clip;  // infinity without a clip
  i64 P;             // columns of h: N without a projection, and at most N
};

template <typename T> struct ScanArguments {
  ScanDirection<T> first, second;  // the second is read only by a grid of two directions
  i64 steps, B;

  MEMBER const ScanDirection<T>& direction(int k) const { return (&first)[k]; }  // not copied
};

// Whether rows can be idle, and what they output then: zeros, or their last output again.
enum Idle { NO_FLAGS, ZEROS, LAST };

// The address of a row's column in an array, or null.
template <typename E> DEVICE E* row_at(const Matrix<E>& of, i64 row, i64 column) {
  return of.at ? of.at + row * of.stride + column : nullptr;
}

// The address of a row's column in a step.
template <typename E> DEVICE E* row_at(const Series<E>& of, i64 step, i64 row, i64 column) {
  return of.at + step * of.step + row * (int)of.row + column;
}

// One of two pairs, chosen as whole words.
template <typename E> DEVICE Vector<E, 2> select(bool first, const Vector<E, 2>& a, const Vector<E, 2>& b) {
  if constexpr (sizeof(E) == 2) {
    const unsigned word =
        first ? *reinterpret_cast<const unsigned*>(&a) : *reinterpret_cast<const unsigned*>(&b);
    return *reinterpret_cast<const Vector<E, 2>*>(&word);
  } else {
    return {{first ? a.at[0] : b.at[0], first ? a.at[1] : b.at[1]}};
  }
}

// Loads or stores those of two units that exist, W at once. Others are zeros, and aren't written.
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

// Launched with rows on grid x and directions on grid y. W = 2 needs an even N and P. Then addresses and
// strides of all arrays but x, weights and flags must be multiples of 2 elements.
template <class Tile, class FUNCTIONS, bool PEEPHOLE, bool CLIP, int FLAGS, int W>
__global__ void __launch_bounds__(Tile::THREADS, 1) lstm_scan(const ScanArguments<typename Tile::T> a) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
  constexpr int ROWS = Tile::ROWS, BATCHES = Tile::BATCHES;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  unsigned char* const hs = shared + ScanGates<Tile>::BYTES;
  unsigned char* const weights = hs + 2 * Tile::H_BYTES;
  unsigned char* const ms = weights + Tile::WEIGHT_BYTES + Tile::PROJECTION_BYTES;
  A* const states = reinterpret_cast<A*>(ms + (Tile::PROJECTS ? Tile::H_BYTES : 0));
  T* const lasts = reinterpret_cast<T*>(states + (BATCHES > 1 ? ROWS * Tile::UNITS : 0));
  SHARED_ARRAY(unsigned char, kept_flags, ScanFlags<ROWS>::BYTES);
  SHARED_ARRAY(A, bias, 4 * Tile::UNITS);  // copies, as bias and peepholes would take registers
  SHARED_ARRAY(T, peepholes, 3 * Tile::UNITS);

  const ScanDirection<T>& d = a.direction(blockIdx.y);
  const i64 first_row = (i64)blockIdx.x * ROWS;
  const int count = a.B - first_row < ROWS ? int(a.B - first_row) : ROWS;
  const int steps = (int)a.steps, N = (int)d.cell.N, P = Tile::PROJECTS ? (int)d.P : N;
  const int unit = Tile::unit();  // this thread's first unit, and column of h
  const int exist = N - unit;     // as many units exist from there on
  const int columns = P - unit;   // and as many columns of h
  Tile tile;
  tile.load_weights(weights, d.weight, P);  // first, while other registers are free
  if constexpr (Tile::PROJECTS) tile.load_projection(weights + Tile::WEIGHT_BYTES, d.projection);
  const i64 way = d.reverse ? -1 : 1, begin = d.reverse && steps > 0 ? steps - 1 : 0;
  ScanGates<Tile> gates(shared, row_at(d.x, begin, first_row, 0), (int)d.x.row, count, N);
  T* out = row_at(d.out, begin, first_row + Tile::row(), unit);
  const ScanFlags<ROWS> flags = {kept_flags};
  // The flags of this thread's row, if it has one.
  auto flags_at = [&](int step) -> unsigned char {
    if ((int)threadIdx.x >= count || step >= steps) return 0;
    return *row_at(d.flags, begin + way * step, first_row + threadIdx.x, 0);
  };
  // Where a thread keeps its units of a row.
  auto own = [&](auto* of, int batch, int r) {
    return of + ((batch * 2 + r) * Tile::THREADS + threadIdx.x) * 2;
  };

#pragma unroll 1
  for (int batch = 0; batch < BATCHES; ++batch) gates.queue(batch, steps > 0);
  if (FLAGS != NO_FLAGS) {
    for (int step = 0; step < 2; ++step) flags.keep(step, flags_at(step));
  }
  clear<Tile::THREADS>(hs, 2 * Tile::H_BYTES);
  if (Tile::PROJECTS) clear<Tile::THREADS>(ms, Tile::H_BYTES);
  for (int k = threadIdx.x; k < 4 * Tile::UNITS; k += Tile::THREADS) {
    const bool exists = k / 4 < N;
    bias[k] = d.cell.bias && exists ? A(widen(d.cell.bias[k % 4 * N + k / 4])) : A(0);
    if (PEEPHOLE && k % 4 < 3) {
      peepholes[k % 4 * Tile::UNITS + k / 4] = exists ? d.cell.peephole[k % 4 * N + k / 4] : Narrow<T>::of(0);
    }
  }
  __syncthreads();

  Vector<A, 2> c[2];  // of the batch
#pragma unroll 1
  for (int batch = 0; batch < BATCHES; ++batch) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = batch * 8 + Tile::row() + r, there = row < count ? exist : 0;
      const int of_h = row < count ? columns : 0;
      const i64 at = first_row + row;
      const bool resets = FLAGS != NO_FLAGS && flags.of(0, row - r).at[r] == FLAG_RESET;
      c[r] = load_units<W>(row_at(resets ? d.reset_c : d.c, at, unit), there);
      store<2>(Tile::own(hs, row), load_units<W>(row_at(resets ? d.reset_h : d.h, at, unit), of_h));
      if (BATCHES > 1) store<2>(own(states, batch, r), c[r]);
      if (FLAGS == LAST) store<2>(own(lasts, batch, r), load_units<W>(row_at(d.last, at, unit), of_h));
    }
  }
  __syncthreads();

#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    unsigned char* const now = hs + step % 2 * Tile::H_BYTES;
    unsigned char* const next = hs + (step + 1) % 2 * Tile::H_BYTES;
    const unsigned char ahead = FLAGS == NO_FLAGS ? 0 : flags_at(step + 2);
    gates.advance(way * d.x.step);
    auto more_of = [&](int row) {
      const T* from = d.input.at ? row_at(d.input, begin + way * step, first_row + row, unit) : nullptr;
      return load_units<W>(from, row < count ? columns : 0);
    };
    // Writes two columns of h in a row.
    auto finish = [&](int batch, int r, Vector<T, 2> h, const Vector<T, 2>& more, bool idle, bool resets) {
      const int row = batch * 8 + Tile::row() + r;
      h = keep_h<FUNCTIONS::ZONEOUT_H>(Tile::own(now, row), h);
      Vector<T, 2> output = d.input.at ? sum(h, more) : h;
      if (FLAGS != NO_FLAGS) {
        Vector<T, 2> instead = {};
        if (FLAGS == LAST) instead = load<2>(own(lasts, batch, r));
        h = select(idle, load<2>(Tile::own(now, row)), h);
        output = select(idle, instead, output);
        if (FLAGS == LAST) store<2>(own(lasts, batch, r), output);
        if (resets) h = load_units<W>(row_at(d.reset_h, first_row + row, unit), row < count ? columns : 0);
      }
      store_units<W>(Tile::own(next, row), h, columns);  // other columns stay zeros
      if (row < count) store_units<W>(out + (i64)(batch * 8 + r) * (int)d.out.row, output, columns);
    };
#pragma unroll 1
    for (int batch = 0; batch < BATCHES; ++batch) {
      if (BATCHES > 1 && batch * 8 >= count) {  // no rows; the group of copies is empty, but counts
        copy_async_commit();
        continue;
      }
      const int first = batch * 8 + Tile::row();
      float sums[2][2][4];
      copy_async_wait<BATCHES - 1>();
      __syncwarp();  // all lanes have copied x's part
      gates.start(batch, sums);
      __syncwarp();  // all lanes have read it
      gates.queue(batch, step + 1 < steps);
      Vector<T, 2> more[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (!Tile::PROJECTS) more[r] = more_of(first + r);
        if (BATCHES > 1) c[r] = load<2>(own(states, batch, r));
      }
      tile.multiply(now, batch, sums);

      Vector<A, 4> bias_of[2];
      Peepholes<T, 2> peepholes_of;
      Vector<unsigned char, 2> of_now, of_next;
#pragma unroll
      for (int e = 0; e < 2; ++e) bias_of[e] = load<4>(bias + 4 * (unit + e));
      if (PEEPHOLE) peepholes_of = load_peepholes<2>(peepholes, unit, Tile::UNITS);
      if (FLAGS != NO_FLAGS) {
        of_now = flags.of(step, first);
        of_next = flags.of(step + 1, first);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = first + r;
        A z[4][2];
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          z[k / 2][k % 2] = sums[k % 2][k / 4][k / 2 % 2 * 2 + r] + bias_of[k % 2].at[k / 2];
        }
        const Vector<A, 2> before = c[r];
        const Vector<T, 2> m = advance<FUNCTIONS, PEEPHOLE, CLIP, true>(z, c[r], peepholes_of, d.cell.clip);
        const bool idle = FLAGS != NO_FLAGS && of_now.at[r] & FLAG_IDLE;
        const bool resets = FLAGS != NO_FLAGS && of_next.at[r] == FLAG_RESET;
        if (FLAGS != NO_FLAGS) {
          c[r] = select(idle, before, c[r]);
          if (resets) {
            c[r] = load_units<W>(row_at(d.reset_c, first_row + row, unit), row < count ? exist : 0);
          }
        }
        if (BATCHES > 1) store<2>(own(states, batch, r), c[r]);
        if constexpr (Tile::PROJECTS) {
          store_units<W>(Tile::own(ms, row), m, exist);  // other units stay zeros
        } else {
          finish(batch, r, m, more[r], idle, resets);
        }
      }
    }
    if constexpr (Tile::PROJECTS) {
      __syncthreads();  // all of m is written
#pragma unroll 1
      for (int batch = 0; batch < BATCHES && batch * 8 < count; ++batch) {
        const int first = batch * 8 + Tile::row();
        Vector<T, 2> more[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) more[r] = more_of(first + r);
        float sums[4];
        tile.project(ms, batch, sums);
        Vector<unsigned char, 2> of_now = {}, of_next = {};
        if (FLAGS != NO_FLAGS) {
          of_now = flags.of(step, first);
          of_next = flags.of(step + 1, first);
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          Vector<T, 2> h;
#pragma unroll
          for (int e = 0; e < 2; ++e) h.at[e] = Narrow<T>::of(clip(sums[2 * e + r], A(d.proj_clip)));
          finish(batch, r, h, more[r], of_now.at[r] & FLAG_IDLE, of_next.at[r] == FLAG_RESET);
        }
      }
    }
    out += way * d.out.step;
    if (FLAGS != NO_FLAGS) flags.keep(step + 2, ahead);
    __syncthreads();  // all of h is written, and nobody reads the old one any more
  }

#pragma unroll 1
  for (int batch = 0; batch < BATCHES; ++batch) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = batch * 8 + Tile::row() + r;
      const i64 at = first_row + row;
      if (row >= count) continue;
      if (BATCHES > 1) c[r] = load<2>(own(states, batch, r));
      store_units<W>(row_at(d.c_out, at, unit), c[r], exist);
      store_units<W>(row_at(d.h_out, at, unit), load<2>(Tile::own(hs + steps % 2 * Tile::H_BYTES, row)),
                     columns);
      if (FLAGS == LAST) store_units<W>(row_at(d.last, at, unit), load<2>(own(lasts, batch, r)), columns);
    }
  }
}
