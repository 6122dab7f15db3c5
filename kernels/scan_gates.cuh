// Copies x's part of the gates to shared memory, one step ahead.
//
// A warp copies what its own units need, so it waits for no other warp. Its part of each of 8 rows is 16
// units of four gates, 16 bytes a unit. They are swizzled so that a quarter of the warp reads from all banks.
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
  const float* from;   // this thread's part of the step to copy
  int stride, count, N;

  // `step` is the block's first row at the first step. Rows from `count` on, and units from N on, are zeros.
  MEMBER ScanGates(unsigned char* shared, const float* step, int stride, int count, int N)
      : own(shared + threadIdx.x / 32 * Tile::BATCHES * BATCH * CHUNK),
        from(step + (i64)(threadIdx.x % 32 / ROW) * stride + 4 * unit_copied()),
        stride(stride),
        count(count),
        N(N) {}

  MEMBER static int unit_copied() { return threadIdx.x / 32 * Tile::WARP_UNITS + threadIdx.x % ROW; }
  MEMBER unsigned char* at(int batch, int row, int unit) const {
    const int swizzled = unit ^ (row / 2 % 2 | row / 4 * 4);
    return own + (batch * BATCH + row * ROW + swizzled) * CHUNK;
  }

  // Moves to another step, this many elements away.
  MEMBER void advance(i64 elements) { from += elements; }

  // Queues the copies of 8 rows, or of nothing, as one group.
  MEMBER void queue(int batch, bool copies) const {
    if (copies) {
#pragma unroll
      for (int k = 0; k < BATCH / 32; ++k) {
        const int row = k * 2 + threadIdx.x % 32 / ROW;
        const bool exists = batch * 8 + row < count && unit_copied() < N;
        const float* of_row = from + (i64)(batch * 8 + k * 2) * stride;
        copy_async_16(at(batch, row, threadIdx.x % ROW), of_row, exists ? CHUNK : 0);
      }
    }
    copy_async_commit();
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
