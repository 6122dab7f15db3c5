// What follows the products of a tile: gates of units become c and m, and sums of a projection become h.
#pragma once

#include "cell.cuh"
#include "rows.cuh"

// Loads the bias of W neighbouring units, by gate; zeros without a bias.
template <int W, typename A, typename T>
DEVICE void load_bias(A (&to)[4][W], const T* bias, i64 unit, i64 N) {
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
    for (int k = 0; k < W; ++k) to[gate][k] = 0;
    if (bias) add(to[gate], bias + gate * N + unit);
  }
}

// Turns the gates of a tile's units into c and m, as in cell.cuh, W units at once. keep(r, unit, m) takes the
// m of the block's row r, which is zeros if the row takes no step. `first_unit` is the block's.
template <class FUNCTIONS, bool PEEPHOLE, bool CLIP, int W, class Tile, class Keep>
DEVICE void finish_units(const Tile& tile, const Row<typename Tile::T>* rows, int count,
                         const Cell<typename Tile::T>& cell, i64 first_unit, Keep keep) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
#pragma unroll
  for (int part = 0; part < Tile::THREAD_GROUPS * Tile::THREAD_UNITS / W; ++part) {
    const int g = part * W / Tile::THREAD_UNITS, e = part * W % Tile::THREAD_UNITS;
    const i64 unit = first_unit + tile.unit(g) + e;
    if (unit >= cell.N) continue;
    A bias[4][W];
    load_bias(bias, cell.bias, unit, cell.N);
    Peepholes<T, W> peepholes;
    if (PEEPHOLE) peepholes = load_peepholes<W>(cell.peephole, unit, cell.N);
#pragma unroll
    for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
      const int r = tile.row(k);
      if (r >= count) continue;
      const Row<T>& row = rows[r];
      Vector<T, W> m;
      if (row.out) {
        A z[4][W];
        Vector<A, W> state;
#pragma unroll
        for (int w = 0; w < W; ++w) {
#pragma unroll
          for (int gate = 0; gate < 4; ++gate) z[gate][w] = tile.sum(k, g, gate, e + w) + bias[gate][w];
          state.at[w] = A(0);
        }
        if (row.c) state = load<W>(row.c + unit);
        m = advance<FUNCTIONS, PEEPHOLE, CLIP, sizeof(T) == 2>(z, state, peepholes, cell.clip);
        store<W>(row.c_out + unit, state);
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
template <u64 ZONEOUT, int W, class Tile>
DEVICE void finish_columns(const Tile& tile, const Row<typename Tile::T>* rows, int count, double limit,
                           const Copy<typename Tile::T>& copy, i64 first_row, i64 first_column, i64 P) {
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
        copy.write(first_row + r, column, h, to);
      }
    }
  }
}
