// Everything in an LSTM step except its matmuls and projection, in one launch: gates, c -> m, c'.
//
//   z  = gates + gates_h + bias            (B, 4N), blocks i, f, g, o of N columns each
//   i  = sigmoid(z_i + p_i * c)            peepholes i and f see the old c
//   f  = sigmoid(z_f + p_f * c)
//   g  = activation(z_g)
//   c' = clip(f * c + i * g, +-cell_clip)  the new c, before zoneout
//   o  = sigmoid(z_o + p_o * c')           peephole o sees the new, clipped c
//   m  = o * activation(c')                h, unless there is a projection or zoneout of h
//
// FUNCTIONS has the activations, whether gates are clipped or coupled, and the part of the old c that zoneout
// keeps: see cell.cuh. The stored c includes that part. o and m use c' without it.
//
// First, rows that is_first marks are reset: c becomes reset_c, and gates_h becomes reset_gates. A null
// pointer stands for zeros. A reset selects and doesn't multiply, so a NaN in the old state is gone.
//
// In a sequence, rows can also be idle: see flags.cuh. They keep h and c, which are then updated in place.
#include "cell.cuh"
#include "flags.cuh"
#include "primitives.cuh"

template <typename G, typename T> struct PointwiseArguments {
  typedef typename Arithmetic<T>::type A;
  Matrix<const G> gates;    // (B, 4N)
  Matrix<const G> gates_h;  // (B, 4N), added to gates; or null
  Cell<T> cell;
  Matrix<const A> c;              // (B, N)
  const unsigned char* is_first;  // (B,), 0 or 1, or flags with SEQUENCE; read with RESET, as the next two
  Matrix<const G> reset_gates;    // (B, 4N), or one row with stride 0, or null
  Matrix<const A> reset_c;        // (B, N), or one row with stride 0, or null
  Matrix<T> h;                    // (B, N); must not overlap an input
  Matrix<A> c_out;                // (B, N); may be c, and is with SEQUENCE
  i64 B;
  Copy<T> copy;          // of h; read with SEQUENCE, as the next
  Matrix<const T> last;  // (B, N): what the copy of an idle row gets; null: zeros
};

// G is the dtype of gates, gates_h and reset_gates, T that of h, bias and peephole, and A that of c.
// A thread has W units, moved as vectors: N, the row strides and the addresses must be multiples of W
// elements. Launched with rows on grid x and units on grid y, so that no thread divides.
template <typename G, typename T, int W, class FUNCTIONS, bool PEEPHOLE, bool CLIP, bool RESET,
          bool SEQUENCE = false>
__global__ void __launch_bounds__(256) lstm_pointwise(const PointwiseArguments<G, T> a) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 unit = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * W;
  if (row >= a.B || unit >= a.cell.N) return;

  const unsigned char flags = RESET ? a.is_first[row] : 0;
  if (SEQUENCE && flags & FLAG_IDLE) {
    a.copy.template repeat<W>(row, unit, a.last);
    return;
  }
  const bool first = flags;
  const G* recurrent = a.gates_h.at ? a.gates_h.at + row * a.gates_h.stride : nullptr;
  const A* old_c = a.c.at + row * a.c.stride;
  if (first) {
    recurrent = a.reset_gates.at ? a.reset_gates.at + row * a.reset_gates.stride : nullptr;
    old_c = a.reset_c.at ? a.reset_c.at + row * a.reset_c.stride : nullptr;
  }

  A z[4][W];
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    const i64 column = gate * a.cell.N + unit;
    const Vector<G, W> part = load<W>(a.gates.at + row * a.gates.stride + column);
#pragma unroll
    for (int k = 0; k < W; ++k) z[gate][k] = A(widen(part.at[k]));
    if (recurrent) add(z[gate], recurrent + column);
  }

  if (a.cell.bias) {  // a separate loop, as that takes fewer registers
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) add(z[gate], a.cell.bias + gate * a.cell.N + unit);
  }

  Vector<A, W> state;
  if (old_c) {
    state = load<W>(old_c + unit);
  } else {
#pragma unroll
    for (int k = 0; k < W; ++k) state.at[k] = A(0);
  }
  Peepholes<T, W> peepholes;
  if (PEEPHOLE) peepholes = load_peepholes<W>(a.cell.peephole, unit, a.cell.N);
  const Vector<T, W> output = advance<FUNCTIONS, PEEPHOLE, CLIP>(z, state, peepholes, a.cell.clip);
  store<W>(a.c_out.at + row * a.c_out.stride + unit, state);
  store<W>(a.h.at + row * a.h.stride + unit, output);
  if (SEQUENCE) a.copy.write(row, unit, output, true);
}
