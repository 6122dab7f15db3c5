// What a block's rows do at each step: they step, are reset first, or are idle.
#pragma once

#include "flags.cuh"
#include "primitives.cuh"

// The flags of a few steps in shared memory. A step reads its own and those of the next one, while the block
// loads those after it.
template <int ROWS> struct ScanFlags {
  static constexpr int KEPT = 4, BYTES = KEPT * ROWS;  // a power of two, at least 3

  unsigned char* kept;

  MEMBER unsigned char* at(int step, int row) const { return kept + (step & (KEPT - 1)) * ROWS + row; }

  // Keeps the flags of this thread's row, if it has one.
  MEMBER void keep(int step, unsigned char flags) const {
    if (threadIdx.x < ROWS) *at(step, threadIdx.x) = flags;
  }
  // The flags of a row and of the next one. The row is even.
  MEMBER Vector<unsigned char, 2> of(int step, int row) const { return load<2>(at(step, row)); }
};
