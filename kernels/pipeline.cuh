// A block's pipeline over the tiles of K: it multiplies one while others are being copied.
#pragma once

#include "staging.cuh"

// Queues the copies of a tile's weights to a stage.
template <class Tile, typename T>
DEVICE void stage_weights_of_block(unsigned char* stage, const Operands<T>& of, int tile, Part part = {}) {
  stage_weights<4 * Tile::UNITS, Tile::THREADS>(stage + Tile::ROWS * TILE_ROW, of, tile, threadIdx.x, part);
}

// Queues the copies of the first tiles' weights, which need no rows. multiply_tiles with BEGUN must follow.
// Its first group of copies includes these.
template <class Tile, typename T> DEVICE void begin_tiles(unsigned char* shared, const Operands<T>& of) {
#pragma unroll
  for (int tile = 0; tile < Tile::STAGES - 1; ++tile) {
    if (tile < of.tiles()) stage_weights_of_block<Tile>(shared + tile * Tile::STAGE_BYTES, of, tile);
  }
}

// multiply(rows, weights) multiplies a tile, whose rows and weights are in shared memory, with all threads.
// RESIDENT: the rows' tiles are already in shared memory, consecutively in `resident`. ALIGNED: see
// stage_rows. BEGUN: see begin_tiles.
template <class Tile, bool ALIGNED, bool RESIDENT, bool BEGUN, typename T, class Multiply>
DEVICE void multiply_tiles(unsigned char* shared, const Operands<T>& of, const unsigned char* resident,
                           Multiply multiply) {
  const int tiles = of.tiles();
  auto stage = [&](int tile, bool has_weights = false) {
    if (tile < tiles) {
      unsigned char* to = shared + tile % Tile::STAGES * Tile::STAGE_BYTES;
      if (!RESIDENT) stage_rows<Tile::ROWS, Tile::THREADS, ALIGNED>(to, of, tile, threadIdx.x);
      if (!has_weights) stage_weights_of_block<Tile>(to, of, tile);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int tile = 0; tile < Tile::STAGES - 1; ++tile) stage(tile, BEGUN);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<Tile::STAGES - 2>();
    __syncthreads();  // all have copied this tile, and multiplied the one before
    stage(tile + Tile::STAGES - 1);
    const unsigned char* staged = shared + tile % Tile::STAGES * Tile::STAGE_BYTES;
    multiply(RESIDENT ? resident + tile * Tile::ROWS * TILE_ROW : staged, staged + Tile::ROWS * TILE_ROW);
  }
}
