// A whole step in one launch: x, h, c and packed weights -> h and c.
//
//   z  = [x | h] weight.T + bias
//   c' and m, as cell.cuh has them; m is h, or what is projected: by project.cu, or here
//
// A tile, of tensor.cuh, tensor_small.cuh or simt.cuh, multiplies; the gates stay in registers. rows.cuh says
// where rows come from and go to.
#include "finish.cuh"
#include "simt.cuh"
#include "tensor_small.cuh"

// Clears the flags of a block's rows once all blocks that have these rows have read them: the last one does
// it. `readers` counts them, and is 0 before and after. All threads of the block have met since they read.
DEVICE void clear_flags(unsigned char* is_first, unsigned* readers, i64 first_row, int rows, i64 B) {
  SHARED_ARRAY(unsigned, read_before, 1);
  if (threadIdx.x == 0) {
    __threadfence();
    read_before[0] = atomicAdd(readers, 1u);
    __threadfence();
  }
  __syncthreads();
  if (read_before[0] != gridDim.y - 1) return;
  for (int r = threadIdx.x; r < rows && first_row + r < B; r += blockDim.x) is_first[first_row + r] = 0;
  if (threadIdx.x == 0) atomicExch(readers, 0u);  // the others' additions are atomic, too
}

// Launched with rows on grid x and units on grid y. W: units of a vector, 2 where N is even and addresses and
// strides are multiples of 2 elements. ALIGNED: see stage_rows.
//
// PROJECT, launched with rows alone: a block has all units of its rows, tile after tile, and keeps m in
// shared memory, where it multiplies it; `out` is h, and what is said of N holds for P, too.
template <class Tile, class FUNCTIONS, bool PEEPHOLE, bool CLIP, bool PROJECT, bool ALIGNED, int W>
__global__ void __launch_bounds__(Tile::THREADS, ALIGNED && !PROJECT ? Tile::BLOCKS : 1)
    lstm_step(const typename Tile::T* x,  // these and their strides: see Rows
              i64 x_stride,               //
              const typename Tile::T* h,  //
              i64 h_stride,               //
              const typename Arithmetic<typename Tile::T>::type* c,
              i64 c_stride,                                        //
              typename Arithmetic<typename Tile::T>::type* c_out,  //
              i64 c_out_stride,                                    //
              typename Tile::T* out,                               //
              i64 out_stride,                                      //
              i64 out_by_slot,                                     //
              const i64* slots,                                    //
              u64* words,                                          //
              i64 tick,                                            //
              i64 flips,                                           //
              unsigned char* is_first,                             //
              unsigned* readers,                                   // (row blocks,) zeros, or null: flags stay
              const typename Tile::T* reset_h,                     //
              i64 reset_h_stride,                                  //
              const typename Arithmetic<typename Tile::T>::type* reset_c,
              i64 reset_c_stride,                //
              const typename Tile::T* weight,    // packed: see device_weights.py
              i64 weight_stride,                 //
              const typename Tile::T* bias,      // (4N,), or null
              const typename Tile::T* peephole,  // (3, N), rows i, f, o; read with PEEPHOLE
              typename Tile::T* copy,            // (B, N or P), or null: out once more; zeros where rows skip
              i64 copy_stride,                   //
              const typename Tile::T* input,     // (B, N or P), or null: is added to the copy
              i64 input_stride,                  //
              double cell_clip,                  // read with CLIP
              const typename Tile::T* projection,  // packed; read with PROJECT, as the next two
              i64 projection_stride,               //
              double proj_clip,                    // infinite for none
              i64 B, i64 I, i64 P, i64 N) {
  typedef typename Tile::T T;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const i64 first_row = (i64)blockIdx.x * Tile::ROWS;

  const Rows<T> all = {x,       x_stride,       h,     h_stride,   c,           c_stride,
                       c_out,   c_out_stride,   out,   out_stride, out_by_slot, slots,
                       words,   tick,           flips, is_first,   reset_h,     reset_h_stride,
                       reset_c, reset_c_stride, B};
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = row_of(all, first_row + r, flips && blockIdx.y == 0);
  }
  __syncthreads();
  if (readers) clear_flags(is_first, readers + blockIdx.x, first_row, Tile::ROWS, B);

  Tile tile;
  const Cell<T> cell = {bias, peephole, cell_clip, N};
  const Copy<T> copies = {copy, copy_stride, input, input_stride};
  const int count = rows_of_block<Tile::ROWS>(first_row, B);
  auto multiply = [&](i64 first_unit) {
    const T* weights = weight + 4 * first_unit * weight_stride;
    tile.template multiply<ALIGNED>(shared, Operands<T>{rows, (int)I, (int)P, weights, weight_stride});
  };
  if constexpr (PROJECT) {
    unsigned char* ms = shared + Tile::SHARED_BYTES;
    const Operands<T> projected = {rows, (int)N, 0, projection, projection_stride};
    clear<Tile::THREADS>(ms, projected.tiles() * Tile::ROWS * TILE_ROW);
    for (i64 first_unit = 0; first_unit < N; first_unit += Tile::UNITS) {
      __syncthreads();  // all have done with the tiles before
      multiply(first_unit);
      finish_units<FUNCTIONS, PEEPHOLE, CLIP, W>(
          tile, rows, count, cell, first_unit,
          [&](int r, i64 unit, const Vector<T, W>& m) { put<Tile::ROWS>(ms, r, (int)unit, m); });
    }
    for (i64 first = 0; first < P; first += 4 * Tile::UNITS) {
      __syncthreads();  // and m is there
      Operands<T> columns = projected;
      columns.weight += first * projection_stride;
      tile.template multiply<true, true>(shared, columns, ms);
      finish_columns<W>(tile, rows, count, proj_clip, copies, first_row, first, P);
    }
  } else {
    const i64 first_unit = (i64)blockIdx.y * Tile::UNITS;
    multiply(first_unit);
    finish_units<FUNCTIONS, PEEPHOLE, CLIP, W>(tile, rows, count, cell, first_unit,
                                               [&](int r, i64 unit, const Vector<T, W>& m) {
                                                 if (rows[r].out) store<W>(rows[r].out + unit, m);
                                                 copies.write(first_row + r, unit, m, rows[r].out);
                                               });
  }
}
