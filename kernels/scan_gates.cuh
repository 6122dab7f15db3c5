// Copies x's part of the gates to shared memory, one step ahead.
//
// A warp copies what its own units need, so that it waits for no other warp. Its part of 8 rows is 16 units
// of four gates, 16 bytes each. They are swizzled so that a quarter of the warp reads from all banks.
#pragma once

#include "scan_tile.cuh"

// An array (T, B, columns) with contiguous rows.
template <typename E> struct Series {
  E* at;          // null only where a kernel allows it
  i64 step, row;  // elements from step to step, and from row to row
};

template <class Tile> struct ScanGates {
  static constexpr int ROW = Tile::WARP_UNITS, BATCH = 8 * ROW;  // units of 16 bytes
  static constexpr int BYTES = Tile::WARPS * Tile::BATCHES * BATCH * CHUNK;

  unsigned char* own;  // of the warp

  MEMBER explicit ScanGates(unsigned char* shared)
      : own(shared + threadIdx.x / 32 * Tile::BATCHES * BATCH * CHUNK) {}

  MEMBER unsigned char* at(int batch, int row, int unit) const {
    const int swizzled = unit ^ (row / 2 % 2 | row / 4 * 4);
    return own + (batch * BATCH + row * ROW + swizzled) * CHUNK;
  }

  // Queues the copies of 8 rows of a step. Rows from `count` on, and units from N on, become zeros.
  MEMBER void queue(int batch, const float* step, i64 stride, int count, int N) const {
    const int lane = threadIdx.x % 32, unit = lane % ROW;
    const int of_all = threadIdx.x / 32 * Tile::WARP_UNITS + unit;
#pragma unroll
    for (int k = 0; k < BATCH / 32; ++k) {
      const int row = k * 2 + lane / ROW, of_block = batch * 8 + row;
      const bool exists = of_block < count && of_all < N;
      copy_async_16(at(batch, row, unit), exists ? step + of_block * stride + of_all * 4 : step, exists ? CHUNK : 0);
    }
  }

  // Starts the sums of a thread's units, in the layout of Tile::multiply.
  MEMBER void start(int batch, float (&sums)[2][2][4]) const {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const unsigned char* from = at(batch, Tile::row() + r, Tile::unit() % ROW + e);
        const Vector<float, 4> gates = load<4>(reinterpret_cast<const float*>(from));
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) sums[e][gate / 2][gate % 2 * 2 + r] = gates.at[gate];
      }
    }
  }
};
