// Follows step.cu if it doesn't project m itself: m -> h, in one launch.
//
//   h = clip(m weight.T, +-limit); ZONEOUT then keeps a part of the old h
//
// The tiles are those of step.cu. Their 4 gates of 8 units are 32 columns of h here.
#include "simt.cuh"
#include "tensor_small.cuh"
#include "tile_epilogue.cuh"

template <typename T> struct ProjectArguments {
  Matrix<const T> m;  // (B, N), rows at multiples of 16 bytes
  Matrix<T> h;        // (B, P), or a pool's (capacity, 2, P)
  SlotRows pool;
  Matrix<const T> weight;  // padded: see device_weights.py
  Copy<T> copy;            // of h; zeros if a row takes no step
  double limit;            // of the clip; infinite if there is none
  i64 B, N, P;
  Matrix<const T> old_h;    // this and the rest: as in StepArguments, read only with ZONEOUT
  unsigned char* is_first;  // also read with IDLE
  unsigned* readers;        //
  Matrix<const T> reset_h;  //
  Matrix<const T> last;     // as in StepArguments
};

// Launched with rows on grid x and columns on grid y. W and IDLE are as in step.cu, which has copied the h of
// idle rows.
template <class Tile, int W, u64 ZONEOUT = 0, bool IDLE = false>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    lstm_project(const ProjectArguments<typename Tile::T> a) {
  typedef typename Tile::T T;
  DYNAMIC_SHARED_ARRAY(unsigned char, tiles);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const i64 first_row = (i64)blockIdx.x * Tile::ROWS, first_column = (i64)blockIdx.y * Tile::UNITS * 4;

  Rows<T> all = {};
  all.x = a.m, all.out = a.h, all.out_by_slot = true, all.pool = a.pool, all.B = a.B;
  if (ZONEOUT) all.h = a.old_h, all.reset_h = a.reset_h;
  if (ZONEOUT || IDLE) all.is_first = a.is_first;
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = row_of<IDLE>(all, first_row + r, a.pool.flips && blockIdx.y == 0);
  }
  __syncthreads();

  Tile tile;
  const Operands<T> operands = {rows, (int)a.N, 0, a.weight.at + first_column * a.weight.stride,
                                a.weight.stride};
  tile.template multiply<true>(tiles, operands);
  if (ZONEOUT && a.readers) clear_flags(a.is_first, a.readers + blockIdx.x, first_row, Tile::ROWS, a.B);

  const int count = rows_of_block<Tile::ROWS>(first_row, a.B);
  finish_columns<ZONEOUT, W, IDLE>(tile, rows, count, a.limit, a.copy, a.last, first_row, first_column, a.P);
}
