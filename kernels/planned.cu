// Follows the matmul of a planned step, in one launch. It updates c in place, and writes h where the next
// matmuls read it.
//
// A planned step multiplies with cuBLASLt plans. The formula is that of cell.cuh with z = gates + bias. In a
// pool, slot_of_row[row] is the slot of a row; slot -1 takes no step.
#include "cell.cuh"
#include "primitives.cuh"

template <typename T> struct PlannedArguments {
  typedef typename Arithmetic<T>::type A;
  const A* gates;  // (B, 4N), contiguous
  Cell<T> cell;
  Matrix<A> c;             // (B, N), or all slots'
  const int* slot_of_row;  // (B,): each row's slot, -1 to skip the row; null: row k uses row k
  Matrix<T> h;             // (B, N), or all slots': m
  i64 h_by_slot;           // whether `slot_of_row` gives the row of h, too
  Copy<T> copy;            // of m; zeros if a row takes no step
  i64 B;
};

// A thread has W units, moved as vectors: N, the row strides and the addresses must be multiples of W
// elements. Launched with rows on grid x and units on grid y, so that no thread divides. The bounds ask for
// one resident block: for more, the compiler would spill.
template <typename T, int W, class FUNCTIONS, bool PEEPHOLE, bool CLIP>
__global__ void __launch_bounds__(256, 1) lstm_planned(const PlannedArguments<T> a) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 unit = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * W;
  if (row >= a.B || unit >= a.cell.N) return;

  const i64 slot = a.slot_of_row ? a.slot_of_row[row] : row;
  Vector<T, W> m;
  if (slot < 0) {
#pragma unroll
    for (int k = 0; k < W; ++k) m.at[k] = Narrow<T>::of(0);
  } else {
    A z[4][W];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const i64 column = gate * a.cell.N + unit;
      const Vector<A, W> part = load<W>(a.gates + row * 4 * a.cell.N + column);
#pragma unroll
      for (int k = 0; k < W; ++k) z[gate][k] = part.at[k];
      if (a.cell.bias) add(z[gate], a.cell.bias + column);
    }
    Vector<A, W> state = load<W>(a.c.at + slot * a.c.stride + unit);
    Peepholes<T, W> peepholes;
    if (PEEPHOLE) peepholes = load_peepholes<W>(a.cell.peephole, unit, a.cell.N);
    m = advance<FUNCTIONS, PEEPHOLE, CLIP>(z, state, peepholes, a.cell.clip);
    store<W>(a.c.at + slot * a.c.stride + unit, state);
    store<W>(a.h.at + (a.h_by_slot ? slot : row) * a.h.stride + unit, m);
  }
  a.copy.write(row, unit, m, slot >= 0);
}
