// What follows the products of a tile: gates of units become c and m, and sums of a projection become h.
#pragma once

#include "cell.cuh"
#include "rows.cuh"

// What a thread adds to its sums. It reads all of this before it stores anything. Otherwise a load would
// wait for the store before it, as the two addresses may be the same.
template <class Tile, bool PEEPHOLE, int W> struct UnitInputs {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
  static constexpr int PARTS = Tile::THREAD_GROUPS * Tile::THREAD_UNITS / W;  // of W neighbouring units
  Vector<A, W> c[PARTS][Tile::THREAD_ROWS];  // the old one; zeros if there is none
  Vector<T, W> bias[PARTS][4];               // by gate; zeros if there is none
  Peepholes<T, W> peepholes[PARTS];

  MEMBER static int group(int part) { return part * W / Tile::THREAD_UNITS; }
  MEMBER static int in_group(int part) { return part * W % Tile::THREAD_UNITS; }
  MEMBER static i64 unit(const Tile& tile, int part) { return tile.unit(group(part)) + in_group(part); }

  // `first_unit` is the block's.
  MEMBER void read(const Tile& tile, const Row<T>* rows, int count, const Cell<T>& cell, i64 first_unit) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const i64 at = first_unit + unit(tile, part);
      const bool exists = at < cell.N;
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        bias[part][gate] = {};
        if (cell.bias && exists) bias[part][gate] = load<W>(cell.bias + gate * cell.N + at);
      }
      if (PEEPHOLE && exists) peepholes[part] = load_peepholes<W>(cell.peephole, at, cell.N);
#pragma unroll
      for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
        const int r = tile.row(k);
        c[part][k] = {};
        if (exists && r < count && rows[r].c) c[part][k] = load<W>(rows[r].c + at);
      }
    }
  }
};

// Turns the gates of a tile's units into c and m, as in cell.cuh, W units at once. keep(r, unit, m) takes the
// m of the block's row r, which is zeros if the row takes no step. `first_unit` is the block's.
template <class FUNCTIONS, bool CLIP, class Tile, bool PEEPHOLE, int W, class Keep>
DEVICE void finish_units(const Tile& tile, UnitInputs<Tile, PEEPHOLE, W>& inputs,
                         const Row<typename Tile::T>* rows, int count, const Cell<typename Tile::T>& cell,
                         i64 first_unit, Keep keep) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
#pragma unroll
  for (int part = 0; part < inputs.PARTS; ++part) {
    const i64 unit = first_unit + inputs.unit(tile, part);
    if (unit >= cell.N) continue;
#pragma unroll
    for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
      const int r = tile.row(k);
      if (r >= count) continue;
      const Row<T>& row = rows[r];
      Vector<T, W> m;
      if (row.out) {
        A z[4][W];
#pragma unroll
        for (int w = 0; w < W; ++w) {
#pragma unroll
          for (int gate = 0; gate < 4; ++gate) {
            const A sum = tile.sum(k, inputs.group(part), gate, inputs.in_group(part) + w);
            z[gate][w] = sum + A(widen(inputs.bias[part][gate].at[w]));
          }
        }
        Vector<A, W>& c = inputs.c[part][k];
        m = advance<FUNCTIONS, PEEPHOLE, CLIP, Tile::FAST>(z, c, inputs.peepholes[part], cell.clip);
        store<W>(row.c_out + unit, c);
      } else {
#pragma unroll
        for (int w = 0; w < W; ++w) m.at[w] = Narrow<T>::of(0);
      }
      keep(r, unit, m);
    }
  }
}

// Computes a tile's columns of a projection, h = clip(sums, +-limit), and keeps a part of the old h. Writes
// them to the row's `out` and to the copy. A unit's four gates are columns of h here, 8 apart. `first_row`
// and `first_column` are the block's.
template <u64 ZONEOUT, int W, bool IDLE, class Tile>
DEVICE void finish_columns(const Tile& tile, const Row<typename Tile::T>* rows, int count, double limit,
                           const Copy<typename Tile::T>& copy, const Matrix<const typename Tile::T>& last,
                           i64 first_row, i64 first_column, i64 P) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
#pragma unroll
  for (int part = 0; part < Tile::THREAD_GROUPS * Tile::THREAD_UNITS / W; ++part) {
    const int g = part * W / Tile::THREAD_UNITS, e = part * W % Tile::THREAD_UNITS;
    const int unit = tile.unit(g) + e;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const i64 column = first_column + unit / 8 * 32 + gate * 8 + unit % 8;
      if (column >= P) continue;
#pragma unroll
      for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
        const int r = tile.row(k);
        if (r >= count) continue;
        T* to = rows[r].out;
        Vector<T, W> h;
#pragma unroll
        for (int w = 0; w < W; ++w) {
          h.at[w] = Narrow<T>::of(to ? clip(A(tile.sum(k, g, gate, e + w)), A(limit)) : A(0));
        }
        if (to) {
          h = keep_h<ZONEOUT>(rows[r].h ? rows[r].h + column : nullptr, h);
          store<W>(to + column, h);
        }
        copy.template write<IDLE>(first_row + r, column, h, to, last);
      }
    }
  }
}
