// Maps step rows to memory: the x, h and c of each row.
//
// Many blocks read h while others write the next one, so h has a double buffer. A batch has two arrays. A
// pool has two rows for each slot, and a word for each slot that says which of them is the state.
#pragma once

#include "flags.cuh"
#include "primitives.cuh"

// The slots of a pool's rows.
struct SlotRows {
  const i64* slots;  // (B,): each row's slot, -1 to skip the row; null: row k uses row k
  u64* words;        // (capacity,), 2 * tick + which row is the state; read if there are slots
  i64 tick;          // of this step: no earlier step had it
  i64 flips;         // whether this launch is the step's last, which flips the words
};

// All rows. A pointer may be null only if its comment says so.
template <typename T> struct Rows {
  typedef typename Arithmetic<T>::type A;
  Matrix<const T> x;  // (B, I)
  Matrix<const T> h;  // (B, P), or a pool's (capacity, 2, P)
  Matrix<const A> c;  // (B, N), or all slots'
  Matrix<A> c_out;    // like c, and may be c
  Matrix<T> out;      // (B, N or P), or, with out_by_slot, like a pool's h
  i64 out_by_slot;
  SlotRows pool;
  unsigned char* is_first;  // (B,), 0 or 1; null: none. With IDLE: flags, and not null
  Matrix<const T> reset_h;  // (B, P), or one row; null: zeros
  Matrix<const A> reset_c;  // (B, N), or one row; null: zeros
  i64 B;
};

// One row. A null pointer stands for zeros.
template <typename T> struct Row {
  typedef typename Arithmetic<T>::type A;
  const T* x;
  const T* h;
  const A* c;
  A* c_out;
  T* out;  // null: takes no step
};

// Which of a slot's two rows of h is its state before this step. If the word has this tick, another block has
// already flipped it.
DEVICE int parity_before(u64 word, u64 tick) { return int(word & 1) ^ int(word >> 1 == tick); }

// Maps a row. With `flips` it also flips the word of the row's slot. Every block calls this for each of its
// rows. With IDLE, rows can be idle: see flags.cuh.
template <bool IDLE = false, typename T> DEVICE Row<T> row_of(const Rows<T>& of, i64 row, bool flips) {
  Row<T> found = {nullptr, nullptr, nullptr, nullptr, nullptr};
  if (row >= of.B) return found;
  if (IDLE && of.is_first[row] & FLAG_IDLE) return found;
  i64 slot = row, before = row, after = row;
  if (of.pool.slots) {
    slot = of.pool.slots[row];
    if (slot < 0) return found;
    const int parity = parity_before(load_relaxed(of.pool.words + slot), of.pool.tick);
    if (flips) store_relaxed(of.pool.words + slot, 2 * (u64)of.pool.tick + !parity);
    before = 2 * slot + parity;
    after = 2 * slot + !parity;
  }
  const bool first = of.is_first && of.is_first[row];
  if (of.x.at) found.x = of.x.at + row * of.x.stride;
  if (first) {
    if (of.reset_h.at) found.h = of.reset_h.at + row * of.reset_h.stride;
    if (of.reset_c.at) found.c = of.reset_c.at + row * of.reset_c.stride;
  } else {
    if (of.h.at) found.h = of.h.at + before * of.h.stride;
    if (of.c.at) found.c = of.c.at + slot * of.c.stride;
  }
  if (of.c_out.at) found.c_out = of.c_out.at + slot * of.c_out.stride;
  found.out = of.out.at + (of.out_by_slot ? after : row) * of.out.stride;
  return found;
}

// How many of a block's rows are in the batch.
template <int ROWS> DEVICE int rows_of_block(i64 first_row, i64 B) {
  return B - first_row < ROWS ? int(B - first_row) : ROWS;
}

// Copies the h of a block's idle rows, all P columns, to `next`. Blocks with the same rows share the columns.
template <int THREADS, typename T>
DEVICE void carry_idle(const Row<T>* rows, i64 first_row, int count, const Matrix<const T>& h,
                       const Matrix<T>& next, i64 P) {
#pragma unroll 1
  for (int r = threadIdx.x / 32; r < count; r += THREADS / 32) {
    if (rows[r].out) continue;
    const i64 row = first_row + r;
    for (i64 k = (i64)blockIdx.y * 32 + threadIdx.x % 32; k < P; k += (i64)gridDim.y * 32) {
      next.at[row * next.stride + k] = h.at[row * h.stride + k];
    }
  }
}

// Clears the flags of a block's rows, with one warp. The last of the blocks with these rows does it, once all
// have read them. `readers` counts these blocks, and is 0 before and after. Call it after the block has read
// the flags and passed a barrier. Loads that needn't wait for other blocks come first, too.
DEVICE void clear_flags(unsigned char* is_first, unsigned* readers, i64 first_row, int rows, i64 B) {
  if (threadIdx.x >= 32) return;
  if (gridDim.y > 1) {
    const unsigned before = threadIdx.x == 0 ? arrive(readers, gridDim.y) : 0;
    if (__shfl_sync(0xffffffff, before, 0) != gridDim.y - 1) return;
    __syncwarp();  // a shuffle doesn't order the other lanes' writes after the reads of other blocks
  }
  for (int r = threadIdx.x; r < rows && first_row + r < B; r += 32) is_first[first_row + r] = 0;
}
