// Turns the lengths, mask and is_first of sequences into the flags of some of their steps: see flags.cuh.
//
// A row takes the steps before its length that the mask marks. Forward, it is reset before a step that
// is_first marks. Backward, it reaches the first step of a sequence last. So it is reset after a step that
// is_first marks, before the next step that it takes. That is an earlier one in time.
#include "flags.cuh"
#include "primitives.cuh"

// One boolean for each step and row, or null for all true or all false.
struct Booleans {
  const unsigned char* at;  // (T, B), 0 or 1
  i64 step, row;            // strides in bytes
  MEMBER bool of(i64 t, i64 k) const { return at[t * step + k * row]; }
};

struct SequenceFlagsArguments {
  Matrix<unsigned char> flags;  // (S, B), for steps `start` to start + S - 1
  const i64* lengths;           // (B,), or null. Those below 0 count as 0, and those above T as T
  i64 lengths_stride;
  Booleans mask;      // null: all true
  Booleans is_first;  // null: all false
  i64 reverse;        // whether the direction is backward
  i64 start, S, T, B;
};

DEVICE bool takes(const SequenceFlagsArguments& a, i64 t, i64 row) {
  if (a.lengths && t >= a.lengths[row * a.lengths_stride]) return false;
  return !a.mask.at || a.mask.of(t, row);
}

// Launched with steps on grid x and rows on grid y.
__global__ void __launch_bounds__(256) lstm_sequence_flags(const SequenceFlagsArguments a) {
  const i64 s = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 row = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (s >= a.S || row >= a.B) return;

  const i64 t = a.start + s;
  unsigned char flags = 0;
  if (!takes(a, t, row)) {
    flags = FLAG_IDLE;
  } else if (a.is_first.at) {
    i64 marked = t;
    if (a.reverse) {
      do ++marked;
      while (marked < a.T && !takes(a, marked, row));
    }
    if (marked < a.T && a.is_first.of(marked, row)) flags = FLAG_RESET;
  }
  a.flags.at[s * a.flags.stride + row] = flags;
}
