// What follows step.cu where there is a projection: m -> h, in one launch.
//
//   h = clip(m weight.T, +-limit)
//
// The tiles are step.cu's, whose 4 gates of 8 units are 32 columns of h here.
#include "finish.cuh"
#include "simt.cuh"
#include "tensor_small.cuh"

// Launched with rows on grid x and columns on grid y. Rows of m begin at multiples of 16 bytes. W as
// step.cu's.
template <class Tile, int W>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    lstm_project(const typename Tile::T* m,       // (B, N)
                 i64 m_stride,                    // elements from row to row, as all strides here
                 typename Tile::T* h,             // (B, P), or of a pool (capacity, 2, P)
                 i64 h_stride,                    //
                 const i64* slots,                // these four: see Rows
                 u64* words,                      //
                 i64 tick,                        //
                 i64 flips,                       //
                 const typename Tile::T* weight,  // packed: see device_weights.py
                 i64 weight_stride,               //
                 typename Tile::T* copy,          // (B, P), or null: h once more; zeros where rows skip
                 i64 copy_stride,                 //
                 const typename Tile::T* input,   // (B, P), or null: is added to the copy
                 i64 input_stride,                //
                 double limit,                    // of the clip, infinite for none
                 i64 B, i64 N, i64 P) {
  typedef typename Tile::T T;
  DYNAMIC_SHARED_ARRAY(unsigned char, tiles);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const i64 first_row = (i64)blockIdx.x * Tile::ROWS, first_column = (i64)blockIdx.y * Tile::UNITS * 4;

  Rows<T> all = {};
  all.x = m, all.x_stride = m_stride;
  all.out = h, all.out_stride = h_stride, all.out_by_slot = true;
  all.slots = slots, all.words = words, all.tick = tick, all.B = B;
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = row_of(all, first_row + r, flips && blockIdx.y == 0);
  }
  __syncthreads();

  Tile tile;
  const Operands<T> operands = {rows, (int)N, 0, weight + first_column * weight_stride, weight_stride};
  tile.template multiply<true>(tiles, operands);

  const Copy<T> copies = {copy, copy_stride, input, input_stride};
  const int count = rows_of_block<Tile::ROWS>(first_row, B);
  finish_columns<W>(tile, rows, count, limit, copies, first_row, first_column, P);
}
