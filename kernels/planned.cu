// What follows the matmul of a planned step, in one launch: gates -> c in place, and h where the next matmuls
// read it.
//
// The formula is cell.cuh's, of z = gates + bias. In a pool, rows[row] is the slot of a row; a row of slot -1
// takes no step.
#include "cell.cuh"
#include "primitives.cuh"

// W units a thread, by vectors: N, the row strides and the addresses must then be multiples of W elements.
// Launched with rows on grid x and units on grid y, so that no thread divides. One resident block is asked
// for, as the compiler would else spill to have more.
template <typename T, int W, class FUNCTIONS, bool PEEPHOLE, bool CLIP>
__global__ void __launch_bounds__(256, 1)
    lstm_planned(const typename Arithmetic<T>::type* gates,  // (B, 4N), contiguous
                 const T* bias,                              // (4N,), or null
                 const T* peephole,                          // (3, N), rows i, f, o; read with PEEPHOLE
                 typename Arithmetic<T>::type* c,            // (B, N), or all slots'
                 i64 c_stride,                               // elements from row to row, as all strides here
                 const int* rows,                            // (B,), which row of c; or null for the same
                 T* h,                                       // (B, N), or all slots': m
                 i64 h_stride,                               //
                 i64 h_by_slot,                              // whether rows tells which row of h, too
                 T* copy,           // (B, N), or null: m once more; zeros where rows skip
                 i64 copy_stride,   //
                 const T* input,    // (B, N), or null: is added to the copy
                 i64 input_stride,  //
                 double cell_clip,  // read with CLIP
                 i64 B, i64 N) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 unit = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * W;
  if (row >= B || unit >= N) return;

  const i64 slot = rows ? rows[row] : row;
  Vector<T, W> m;
  if (slot < 0) {
#pragma unroll
    for (int k = 0; k < W; ++k) m.at[k] = Narrow<T>::of(0);
  } else {
    A z[4][W];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const i64 column = gate * N + unit;
      const Vector<A, W> part = load<W>(gates + row * 4 * N + column);
#pragma unroll
      for (int k = 0; k < W; ++k) z[gate][k] = part.at[k];
      if (bias) add(z[gate], bias + column);
    }
    Vector<A, W> state = load<W>(c + slot * c_stride + unit);
    Peepholes<T, W> peepholes;
    if (PEEPHOLE) peepholes = load_peepholes<W>(peephole, unit, N);
    m = advance<FUNCTIONS, PEEPHOLE, CLIP>(z, state, peepholes, cell_clip);
    store<W>(c + slot * c_stride + unit, state);
    store<W>(h + (h_by_slot ? slot : row) * h_stride + unit, m);
    if (copy && input) m = sum(m, load<W>(input + row * input_stride + unit));
  }
  if (copy) store<W>(copy + row * copy_stride + unit, m);
}
