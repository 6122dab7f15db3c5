// What a block's rows do at each step: they step, are reset first, or are idle.
#pragma once

#include "primitives.cuh"

// The bits of a row's flags. An idle row isn't reset.
enum ScanFlag { RESETS = 1, IDLE = 2 };

// The flags of the last steps in shared memory. A step reads its own and those of the next one.
template <int ROWS> struct ScanFlags {
  static constexpr int KEPT = 4, BYTES = KEPT * ROWS;  // a power of two, at least 3

  unsigned char* kept;
  const unsigned char* from;  // of this thread's row; null: none
  i64 stride, steps;

  // Loads the flags of this thread's row, if it has one, at the step `number`.
  MEMBER unsigned char ahead(i64 number) const {
    if (!from || number >= steps) return 0;
    const unsigned char flags = from[number * stride];
    return flags & IDLE ? IDLE : flags & RESETS;
  }
  MEMBER void keep(i64 number, unsigned char flags) const {
    if (threadIdx.x < ROWS) kept[number % KEPT * ROWS + threadIdx.x] = flags;
  }
  MEMBER bool is(i64 number, int row, ScanFlag flag) const { return kept[number % KEPT * ROWS + row] & flag; }
};
