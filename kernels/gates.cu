// x's part of the gates of many steps, for scan.cu: x weight.T, in float.
//
// A tile of tensor.cuh sums in the order of K, as in step.cu. A row's bits don't depend on other rows. The
// bias is not added.
#include "tensor.cuh"

template <typename T> struct GatesArguments {
  typedef typename Arithmetic<T>::type A;
  Matrix<const T> x;       // (B, I)
  Matrix<const T> weight;  // interleaved: see device_weights.py
  Matrix<A> gates;         // (B, 4N): the gates i, f, g and o of a unit side by side
  i64 B, I, N;
};

// Launched with rows on grid x and units on grid y. ALIGNED: see stage_rows. Rows of gates begin at multiples
// of 16 bytes.
template <class Tile, bool ALIGNED>
__global__ void __launch_bounds__(Tile::THREADS, ALIGNED ? Tile::BLOCKS : 1)
    lstm_gates(const GatesArguments<typename Tile::T> a) {
  typedef typename Tile::T T;
  typedef typename Arithmetic<T>::type A;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const i64 first_row = (i64)blockIdx.x * Tile::ROWS, first_unit = (i64)blockIdx.y * Tile::UNITS;
  const T* weights = a.weight.at + 4 * first_unit * a.weight.stride;
  const Operands<T> operands = {rows, (int)a.I, 0, weights, a.weight.stride};

  Tile tile;
  tile.begin(shared, operands);  // while the rows are mapped
#pragma unroll 1
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = {};
    if (first_row + r < a.B) rows[r].x = a.x.at + (first_row + r) * a.x.stride;
  }
  __syncthreads();
  tile.template multiply<ALIGNED, false, true>(shared, operands);

#pragma unroll
  for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
    const i64 row = first_row + tile.row(k);
    if (row >= a.B) continue;
#pragma unroll
    for (int part = 0; part < Tile::THREAD_GROUPS * Tile::THREAD_UNITS; ++part) {
      const int group = part / Tile::THREAD_UNITS, e = part % Tile::THREAD_UNITS;
      const i64 unit = first_unit + tile.unit(group) + e;
      if (unit >= a.N) continue;
      Vector<A, 4> sums;
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) sums.at[gate] = tile.sum(k, group, gate, e);
      store<4>(a.gates.at + row * a.gates.stride + 4 * unit, sums);
    }
  }
}
