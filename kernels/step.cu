// A layer's whole step in one launch: x, h, c and interleaved weights -> h and c.
//
//   z  = [x | h] weight.T + bias
//   c' and m as in cell.cuh; m is h, unless project.cu or this kernel projects it
//
// A tile of tensor.cuh, tensor_small.cuh or simt.cuh multiplies. The gates stay in registers. rows.cuh maps
// rows to memory.
#include "simt.cuh"
#include "tensor_small.cuh"
#include "tile_epilogue.cuh"

template <typename T> struct StepArguments {
  Rows<T> rows;
  unsigned* readers;       // (row blocks,), zeros; null: leave the flags set
  Matrix<const T> weight;  // interleaved: see device_weights.py
  Cell<T> cell;
  Copy<T> copy;                // of out, N or P columns
  Matrix<const T> projection;  // padded; read only with PROJECT, like proj_clip
  double proj_clip;            // infinite if there is none
  i64 I, P;
  Matrix<T> next_h;      // (B, P): where the h of idle rows goes; read only with IDLE, as the next
  Matrix<const T> last;  // like copy: what the copy of an idle row gets; null: zeros
};

// Launched with rows on grid x and units on grid y. W: units of a vector; 2 needs an even N, and addresses
// and strides that are multiples of 2 elements. ALIGNED: see stage_rows.
//
// With PROJECT it is launched with rows alone. A block steps all units of its rows, tile by tile. It keeps m
// in shared memory and projects it there. `out` is then h, and W = 2 also needs an even P.
//
// With IDLE, rows can be idle: see flags.cuh. Then c_out is c, and there is no pool.
template <class Tile, class FUNCTIONS, bool PEEPHOLE, bool CLIP, bool PROJECT, bool ALIGNED, int W,
          bool IDLE = false>
__global__ void __launch_bounds__(Tile::THREADS, ALIGNED && !PROJECT ? Tile::BLOCKS : 1)
    lstm_step(const StepArguments<typename Tile::T> a) {
  typedef typename Tile::T T;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const i64 first_row = (i64)blockIdx.x * Tile::ROWS;

  Tile tile;
  auto operands = [&](i64 first_unit) {
    const T* weights = a.weight.at + 4 * first_unit * a.weight.stride;
    return Operands<T>{rows, (int)a.I, (int)a.P, weights, a.weight.stride};
  };
  const i64 first_unit_of_block = PROJECT ? 0 : (i64)blockIdx.y * Tile::UNITS;
  if (!PROJECT) tile.begin(shared, operands(first_unit_of_block));  // while the rows are mapped

#pragma unroll 1
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = row_of<IDLE>(a.rows, first_row + r, a.rows.pool.flips && blockIdx.y == 0);
  }
  __syncthreads();

  const int count = rows_of_block<Tile::ROWS>(first_row, a.rows.B);
  auto multiply = [&](i64 first_unit) {
    UnitInputs<Tile, PEEPHOLE, W> inputs;
    if (Tile::READS_EARLY) inputs.read(tile, rows, count, a.cell, first_unit);
    tile.template multiply<ALIGNED, false, !PROJECT>(shared, operands(first_unit));
    if (!Tile::READS_EARLY) inputs.read(tile, rows, count, a.cell, first_unit);
    return inputs;
  };
  auto clear_read_flags = [&] {
    if (a.readers) clear_flags(a.rows.is_first, a.readers + blockIdx.x, first_row, Tile::ROWS, a.rows.B);
  };
  if constexpr (PROJECT) {
    unsigned char* ms = shared + Tile::SHARED_BYTES;
    const Operands<T> projected = {rows, (int)a.cell.N, 0, a.projection.at, a.projection.stride};
    clear<Tile::THREADS>(ms, projected.tiles() * Tile::ROWS * TILE_ROW);
    for (i64 first_unit = 0; first_unit < a.cell.N; first_unit += Tile::UNITS) {
      __syncthreads();  // all are done with the tiles before
      UnitInputs<Tile, PEEPHOLE, W> inputs = multiply(first_unit);
      finish_units<FUNCTIONS, CLIP>(
          tile, inputs, rows, count, a.cell, first_unit,
          [&](int r, i64 unit, const Vector<T, W>& m) { put<Tile::ROWS>(ms, r, (int)unit, m); });
    }
    for (i64 first = 0; first < a.P; first += 4 * Tile::UNITS) {
      __syncthreads();  // all of m is written, too
      Operands<T> columns = projected;
      columns.weight += first * a.projection.stride;
      tile.template multiply<true, true>(shared, columns, ms);
      finish_columns<FUNCTIONS::ZONEOUT_H, W, IDLE>(tile, rows, count, a.proj_clip, a.copy, a.last, first_row,
                                                    first, a.P);
    }
    clear_read_flags();
  } else {
    UnitInputs<Tile, PEEPHOLE, W> inputs = multiply(first_unit_of_block);
    clear_read_flags();  // before any store, as its fence would wait for stores
    finish_units<FUNCTIONS, CLIP>(tile, inputs, rows, count, a.cell, first_unit_of_block,
                                  [&](int r, i64 unit, Vector<T, W> h) {
                                    const Row<T>& row = rows[r];
                                    if (row.out) {
                                      h = keep_h<FUNCTIONS::ZONEOUT_H>(row.h ? row.h + unit : nullptr, h);
                                      store<W>(row.out + unit, h);
                                    }
                                    a.copy.template write<IDLE>(first_row + r, unit, h, row.out, a.last);
                                  });
  }
  if (IDLE) carry_idle<Tile::THREADS>(rows, first_row, count, a.rows.h, a.next_h, a.P);
}
