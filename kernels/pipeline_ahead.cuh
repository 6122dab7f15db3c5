// A pipeline for a block that is alone on a multiprocessor, where no other block multiplies while it waits.
// It loads operands to registers half a tile ahead, and queues copies between products.
#pragma once

#include "pipeline.cuh"

// A tile's rows and weights in shared memory.
struct Staged {
  const unsigned char *rows, *weights;
};

// load(step, staged) loads the operands of a tile's first or second half. multiply(step, stage) multiplies
// them, and calls stage(k, parts) for each k < parts, which queues a part of another tile's copies. Other
// arguments: see multiply_tiles.
template <class Tile, bool ALIGNED, bool RESIDENT, bool BEGUN, typename T, class Load, class Multiply>
DEVICE void multiply_tiles_ahead(unsigned char* shared, const Operands<T>& of, const unsigned char* resident,
                                 Load load, Multiply multiply) {
  const int tiles = of.tiles();
  auto stage = [&](int tile, int k, int parts, bool has_weights = false) {
    const Part part = {k, parts, tile < tiles};
    unsigned char* to = shared + tile % Tile::STAGES * Tile::STAGE_BYTES;
    if (!RESIDENT) stage_rows<Tile::ROWS, Tile::THREADS, ALIGNED>(to, of, tile, threadIdx.x, part);
    if (!has_weights) stage_weights_of_block<Tile>(to, of, tile, part);
    if (k + 1 == parts) copy_async_commit();
  };
  auto wait = [&](int tile) {
    copy_async_wait<Tile::STAGES - 2>();
    __syncthreads();  // all have copied this tile, and loaded the one before
    const unsigned char* staged = shared + tile % Tile::STAGES * Tile::STAGE_BYTES;
    return Staged{RESIDENT ? resident + tile * Tile::ROWS * TILE_ROW : staged,
                  staged + Tile::ROWS * TILE_ROW};
  };
#pragma unroll
  for (int tile = 0; tile < Tile::STAGES - 1; ++tile) stage(tile, 0, 1, BEGUN);
  Staged staged = wait(0);
  load(0, staged);
  for (int tile = 0; tile < tiles; ++tile) {
    load(1, staged);
    multiply(0, [&](int k, int parts) { stage(tile + Tile::STAGES - 1, k, parts); });
    if (tile + 1 < tiles) {
      staged = wait(tile + 1);
      load(0, staged);
    }
    multiply(1, [](int, int) {});
  }
}
