// Everything in an LSTM step but its matmuls and projection, in one launch: gates, c -> m, c'.
//
//   z  = gates + gates_h + bias            (B, 4N), blocks i, f, g, o of N columns each
//   i  = sigmoid(z_i + p_i * c)            peepholes i and f see the old c
//   f  = sigmoid(z_f + p_f * c)
//   g  = activation(z_g)
//   c' = clip(f * c + i * g, +-cell_clip)  the clipped c is the state
//   o  = sigmoid(z_o + p_o * c')           peephole o sees the new, clipped c
//   m  = o * activation(c')                h without a projection, else what is projected
//
// FUNCTIONS says which functions they are, and whether gates are clipped or coupled: see cell.cuh.
//
// Before all that, rows where is_first lose their state: c becomes reset_c, and the part of h becomes
// reset_gates, each of them zero where its pointer is null. A reset selects: a NaN in the old state is gone.
#include "cell.cuh"
#include "primitives.cuh"

// G is the dtype of gates, gates_h and reset_gates; T that of h, bias and peephole; A that of c.
// W units a thread, by vectors: N, the row strides and the addresses must then be multiples of W elements.
// Launched with rows on grid x and units on grid y, so that no thread divides.
template <typename G, typename T, int W, class FUNCTIONS, bool PEEPHOLE, bool CLIP, bool RESET>
__global__ void __launch_bounds__(256)
    lstm_pointwise(const G* gates,                         // (B, 4N)
                   i64 gates_stride,                       // elements from row to row, as all strides here
                   const G* gates_h,                       // (B, 4N), or null: added
                   i64 gates_h_stride,                     //
                   const T* bias,                          // (4N,), or null
                   const T* peephole,                      // (3, N), rows i, f, o; read with PEEPHOLE
                   const typename Arithmetic<T>::type* c,  // (B, N)
                   i64 c_stride,                           //
                   const unsigned char* is_first,          // (B,), 0 or 1; this and the next read with RESET
                   const G* reset_gates,                   // (B, 4N), or one row with stride 0, or null
                   i64 reset_gates_stride,                 //
                   const typename Arithmetic<T>::type* reset_c,  // (B, N), or one row with stride 0, or null
                   i64 reset_c_stride,                           //
                   T* h,                                         // (B, N), contiguous, apart from all inputs
                   typename Arithmetic<T>::type* c_out,          // (B, N), contiguous; may be c
                   double cell_clip,                             // read with CLIP
                   i64 B, i64 N) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 unit = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * W;
  if (row >= B || unit >= N) return;

  const bool first = RESET && is_first[row];
  const G* recurrent = gates_h ? gates_h + row * gates_h_stride : nullptr;
  const A* old_c = c + row * c_stride;
  if (first) {
    recurrent = reset_gates ? reset_gates + row * reset_gates_stride : nullptr;
    old_c = reset_c ? reset_c + row * reset_c_stride : nullptr;
  }

  A z[4][W];
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    const i64 column = gate * N + unit;
    const Vector<G, W> part = load<W>(gates + row * gates_stride + column);
#pragma unroll
    for (int k = 0; k < W; ++k) z[gate][k] = A(widen(part.at[k]));
    if (recurrent) add(z[gate], recurrent + column);
    if (bias) add(z[gate], bias + column);
  }

  Vector<A, W> state;
  if (old_c) {
    state = load<W>(old_c + unit);
  } else {
#pragma unroll
    for (int k = 0; k < W; ++k) state.at[k] = A(0);
  }
  Peepholes<T, W> peepholes;
  if (PEEPHOLE) peepholes = load_peepholes<W>(peephole, unit, N);
  const Vector<T, W> output = advance<FUNCTIONS, PEEPHOLE, CLIP>(z, state, peepholes, cell_clip);
  store<W>(c_out + row * N + unit, state);
  store<W>(h + row * N + unit, output);
}
