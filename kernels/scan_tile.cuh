// Products of rows of h on tensor cores. The weights stay in registers from step to step. In this file, a
// `step` is one of K.
//
// As in tensor_small.cuh, weights are the operand A of mma.sync, and 8 rows of h are B. A warp has all of K
// for 16 units. One tile of A has the gates i and f of 8 units, another has g and o. So a thread's sums are
// all gates of its two neighbouring units, in two of each 8 rows.
//
// Weights that would take too many registers wait in shared memory, and so do those of a projection. There,
// the rows of A are 16 columns of h.
#pragma once

#include "tensor.cuh"

template <typename T_, int UNITS_, int ROWS_, bool PROJECTS_ = false> struct ScanTile {
  typedef T_ T;
  static constexpr bool PROJECTS = PROJECTS_;
  static constexpr int UNITS = UNITS_, ROWS = ROWS_, BATCHES = ROWS / 8;
  static constexpr int WARP_UNITS = 16, WARPS = UNITS / WARP_UNITS, THREADS = 32 * WARPS;
  static constexpr int K_TILES = UNITS * (int)sizeof(T) / TILE_ROW, STEPS = 2 * K_TILES;
  static constexpr int H_BYTES = ROWS * K_TILES * TILE_ROW;  // of all h of the rows, in tiles of staging.cuh
  static_assert(UNITS % 32 == 0 && ROWS % 8 == 0, "whole tiles");
  static_assert(!PROJECTS || sizeof(T) == 2, "with TF32, registers don't suffice on all GPUs");
  // The steps of K whose weights are in registers, and the bytes of the others.
  static constexpr int MOST_STEPS = 8, KEPT = STEPS < MOST_STEPS ? STEPS : MOST_STEPS;
  static constexpr int WEIGHT_BYTES = (STEPS - KEPT) * 4 * THREADS * CHUNK;
  static constexpr int PROJECTION_BYTES = PROJECTS ? STEPS * THREADS * CHUNK : 0;

  unsigned weights[2][2][KEPT][4];  // of each unit: i and f, g and o
  unsigned char* others;            // (STEPS - KEPT, 4, THREADS) of four words
  unsigned char* projection;        // (STEPS, THREADS) of four words

  // The first of a thread's two units, and of its two rows in each 8.
  MEMBER static int unit() { return threadIdx.x / 32 * WARP_UNITS + threadIdx.x % 32 / 4 * 2; }
  MEMBER static int row() { return threadIdx.x % 4 * 2; }

  // Loads the weights of h, of which K columns: UNITS / 8 groups of 32 rows, as interleave.cu lays them out.
  // Tiles of K after the last one are zeros. Without a projection, there is at most one such tile. `shared`
  // has WEIGHT_BYTES, of which a thread uses its own part.
  MEMBER void load_weights(unsigned char* shared, const Matrix<const T>& from, int K) {
    constexpr int EACH = TILE_ROW / (int)sizeof(T);
    const bool whole = !PROJECTS && (sizeof(T) == 2 || K > (K_TILES - 1) * EACH);
    const int tiles = PROJECTS ? (K + EACH - 1) / EACH : K_TILES - 1;
    others = shared;
    // A word of the weights in step `step` of K and tile k of A.
    auto word_at = [&](int step, int k, int word) -> unsigned {
      const int of = unit() + k / 2, gate = k % 2 * 2 + word % 2;
      const T* row = from.at + (of / 8 * 32 + gate * 8 + of % 8) * from.stride;
      const int at = step * 8 + word / 2 * 4 + threadIdx.x % 4;
      return step / 2 < tiles || whole ? reinterpret_cast<const unsigned*>(row)[at] : 0;
    };
#pragma unroll 1
    for (int k = 0; k < (STEPS - KEPT) * 4; ++k) {
      Vector<unsigned, 4> words;
#pragma unroll
      for (int word = 0; word < 4; ++word) words.at[word] = word_at(KEPT + k / 4, k % 4, word);
      store<4>(other(KEPT + k / 4, k % 4), words);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int step = 0; step < KEPT; ++step) {
#pragma unroll
        for (int word = 0; word < 4; ++word) weights[k / 2][k % 2][step][word] = word_at(step, k, word);
      }
      __syncwarp();  // otherwise, loads in flight would take too many registers
    }
  }

  // Loads the weights of a projection. As the rows of A are 16 columns of h, a thread's sums are two columns
  // in two rows. `shared` has PROJECTION_BYTES.
  MEMBER void load_projection(unsigned char* shared, const Matrix<const T>& from) {
    projection = shared;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
      Vector<unsigned, 4> words;
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const T* row = from.at + (unit() + word % 2) * from.stride;
        words.at[word] = reinterpret_cast<const unsigned*>(row)[step * 8 + word / 2 * 4 + threadIdx.x % 4];
      }
      store<4>(of_projection(step), words);
    }
  }

  MEMBER unsigned* of_projection(int step) const {
    return reinterpret_cast<unsigned*>(projection + (step * THREADS + threadIdx.x) * CHUNK);
  }

  // Projects 8 rows of m, to two columns of h in each of two rows.
  MEMBER void project(const unsigned char* m, int batch, float (&sums)[4]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] = 0;
#pragma unroll
    for (int tile = 0; tile < K_TILES; ++tile) {
      unsigned b[4];
      load_matrix_x4(b, m + tile * ROWS * TILE_ROW + place(slot(batch * 8 + lane % 8), lane / 8));
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const unsigned pair[2] = {b[2 * step], b[2 * step + 1]};
        const Vector<unsigned, 4> a = load<4>(of_projection(tile * 2 + step));
        multiply_add<T>(sums, a.at, pair);
      }
    }
  }

  MEMBER unsigned* other(int step, int k) const {
    return reinterpret_cast<unsigned*>(others + (((step - KEPT) * 4 + k) * THREADS + threadIdx.x) * CHUNK);
  }

  // Where a row of h is: of each 8, the even ones precede the odd ones. A warp writes every second row at
  // once, and then writes to all banks.
  MEMBER static int slot(int row) { return (row & ~7) | row % 2 * 4 | row / 2 % 4; }

  // Adds the products of 8 rows of h to sums[unit][tile of A].
  MEMBER void multiply(const unsigned char* h, int batch, float (&sums)[2][2][4]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < K_TILES; ++tile) {
      unsigned b[4];  // of both steps of K
      load_matrix_x4(b, h + tile * ROWS * TILE_ROW + place(slot(batch * 8 + lane % 8), lane / 8));
      round_to_operand<T>(b);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const unsigned pair[2] = {b[2 * step], b[2 * step + 1]};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int of = tile * 2 + step;
          if (of < KEPT) {
            multiply_add<T>(sums[k / 2][k % 2], weights[k / 2][k % 2][of < KEPT ? of : 0], pair);
          } else {
            const Vector<unsigned, 4> a = load<4>(other(of, k));
            multiply_add<T>(sums[k / 2][k % 2], a.at, pair);
          }
        }
      }
    }
  }

  // Where a thread's two units of a row of h are.
  MEMBER static T* own(unsigned char* h, int row) {
    const int each = CHUNK / (int)sizeof(T), column = unit();
    unsigned char* tile = h + column / (each * CHUNKS) * ROWS * TILE_ROW;
    return reinterpret_cast<T*>(tile + place(slot(row), column / each % CHUNKS)) + column % each;
  }
};
