// Whose the rows of a step are, and where each one's x, h and c are.
//
// h is read by many blocks while others write the next one, so there are two of it: of a batch in two arrays,
// of a pool in two rows a slot, with a word a slot that says which of them is the state.
#pragma once

#include "primitives.cuh"

// All rows. "Null" pointers are allowed where it is said.
template <typename T> struct Rows {
  typedef typename Arithmetic<T>::type A;
  const T* x;    // (B, I)
  i64 x_stride;  // elements from row to row, as all strides here
  const T* h;    // (B, P), or of a pool (capacity, 2, P)
  i64 h_stride;
  const A* c;  // (B, N), or all slots'
  i64 c_stride;
  A* c_out;  // as c, and may be c
  i64 c_out_stride;
  T* out;  // (B, N or P), or, with out_by_slot, as h of a pool
  i64 out_stride;
  i64 out_by_slot;
  const i64* slots;               // (B,), -1 for a row that takes no step; null: rows are their own
  u64* words;                     // (capacity,), 2 * tick + which of the two is the state; with slots
  i64 tick;                       // of this step: another than of any before
  i64 flips;                      // whether this launch is the step's last, which turns the words
  const unsigned char* is_first;  // (B,), 0 or 1; null: none
  const T* reset_h;               // (B, P), or one row with stride 0; null: zeros
  i64 reset_h_stride;
  const A* reset_c;  // (B, N), or one row with stride 0; null: zeros
  i64 reset_c_stride;
  i64 B;
};

// One row. What is null is all zeros.
template <typename T> struct Row {
  typedef typename Arithmetic<T>::type A;
  const T* x;
  const T* h;
  const A* c;
  A* c_out;
  T* out;  // null: takes no step
};

// Which of a slot's two rows of h is its state. A word of this tick has been turned by another block already.
DEVICE int parity_before(u64 word, u64 tick) { return int(word & 1) ^ int(word >> 1 == tick); }

// Called for each row by every block that has it.
template <typename T> DEVICE Row<T> row_of(const Rows<T>& of, i64 row, bool turns) {
  Row<T> found = {nullptr, nullptr, nullptr, nullptr, nullptr};
  if (row >= of.B) return found;
  i64 slot = row, before = row, after = row;
  if (of.slots) {
    slot = of.slots[row];
    if (slot < 0) return found;
    const int parity = parity_before(load_relaxed(of.words + slot), of.tick);
    if (turns) store_relaxed(of.words + slot, 2 * (u64)of.tick + !parity);
    before = 2 * slot + parity;
    after = 2 * slot + !parity;
  }
  const bool first = of.is_first && of.is_first[row];
  if (of.x) found.x = of.x + row * of.x_stride;
  if (first) {
    if (of.reset_h) found.h = of.reset_h + row * of.reset_h_stride;
    if (of.reset_c) found.c = of.reset_c + row * of.reset_c_stride;
  } else {
    if (of.h) found.h = of.h + before * of.h_stride;
    if (of.c) found.c = of.c + slot * of.c_stride;
  }
  if (of.c_out) found.c_out = of.c_out + slot * of.c_out_stride;
  found.out = of.out + (of.out_by_slot ? after : row) * of.out_stride;
  return found;
}

// How many of a block's rows there are.
template <int ROWS> DEVICE int rows_of_block(i64 first_row, i64 B) {
  return B - first_row < ROWS ? int(B - first_row) : ROWS;
}
