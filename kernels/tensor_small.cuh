// Few rows times weights on tensor cores. Weights are the operand A of mma.sync, and 8 rows fill B.
//
// A block has only 8 units, so that there are many blocks. Its warps split K, each with its own pipeline.
// Their sums are added in the order of the warps.
#pragma once

#include "tensor.cuh"

template <typename T_, int ROWS_, int STAGES_ = 4> struct TensorSmall {
  typedef T_ T;
  static constexpr int WARPS = 4, THREADS = 32 * WARPS, BLOCKS = 2;
  static constexpr int ROWS = ROWS_, UNITS = 8, BATCHES = ROWS / 8;
  static constexpr int STAGES = STAGES_, WEIGHT_ROWS = 4 * UNITS,
                       STAGE_BYTES = (WEIGHT_ROWS + ROWS) * TILE_ROW;
  static constexpr int SHARED_BYTES = WARPS * STAGES * STAGE_BYTES;
  // Each thread has one pair of a row's units, or nothing.
  static constexpr int THREAD_ROWS = 1, THREAD_GROUPS = 1, THREAD_UNITS = 2;
  static constexpr bool READS_EARLY = true, FAST = true;  // as in Tensor
  static_assert(ROWS * UNITS / 2 <= THREADS, "a thread has one pair of units");

  // 8 rows of 4 neighbouring units are in different banks. So are 8 rows of the 4 even units, and of the odd.
  static constexpr int PITCH = ROWS % 32 ? ROWS : ROWS + 8;
  MEMBER static int place_of(int unit) { return unit ^ unit >> 2; }
  const float (*parts)[4][UNITS][PITCH];  // of each warp

  MEMBER int row(int) const { return threadIdx.x / 4; }
  MEMBER int unit(int) const { return threadIdx.x % 4 * 2; }
  MEMBER float sum(int, int, int gate, int e) const {
    float total = parts[0][gate][place_of(unit(0) + e)][row(0)];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) total += parts[warp][gate][place_of(unit(0) + e)][row(0)];
    return total;
  }

  // See begin_tiles.
  MEMBER void begin(unsigned char* shared, const Operands<T>& of) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int pass = 0; pass < STAGES - 1; ++pass) {
      if (pass * WARPS + warp >= of.tiles()) return;
      unsigned char* to = shared + (warp * STAGES + pass) * STAGE_BYTES;
      stage_weights<WEIGHT_ROWS, 32>(to, of, pass * WARPS + warp, threadIdx.x % 32);
    }
  }

  // RESIDENT and BEGUN: see pipeline.cuh.
  template <bool ALIGNED, bool RESIDENT = false, bool BEGUN = false>
  MEMBER void multiply(unsigned char* shared, const Operands<T>& of,
                       const unsigned char* resident = nullptr) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sums[2][BATCHES][4];
#pragma unroll
    for (int k = 0; k < 2 * BATCHES * 4; ++k) sums[k / (BATCHES * 4)][k / 4 % BATCHES][k % 4] = 0;

    unsigned char* own = shared + warp * STAGES * STAGE_BYTES;
    const int tiles = of.tiles();
    auto stage = [&](int pass, bool has_weights = false) {
      const int tile = pass * WARPS + warp;
      if (tile < tiles) {
        unsigned char* to = own + pass % STAGES * STAGE_BYTES;
        if (!has_weights) stage_weights<WEIGHT_ROWS, 32>(to, of, tile, lane);
        if (!RESIDENT) stage_rows<ROWS, 32, ALIGNED>(to + WEIGHT_ROWS * TILE_ROW, of, tile, lane);
      }
      copy_async_commit();
    };
#pragma unroll
    for (int pass = 0; pass < STAGES - 1; ++pass) stage(pass, BEGUN);
    for (int pass = 0; pass * WARPS + warp < tiles; ++pass) {
      copy_async_wait<STAGES - 2>();
      __syncwarp();  // all lanes have copied this tile, and multiplied the one before
      stage(pass + STAGES - 1);
      const unsigned char *staged = own + pass % STAGES * STAGE_BYTES,
                          *rows = staged + WEIGHT_ROWS * TILE_ROW;
      if (RESIDENT) rows = resident + (pass * WARPS + warp) * ROWS * TILE_ROW;
      multiply_tile(staged, rows, sums, lane);
    }
    __syncthreads();  // all are done with the tiles, which the sums now overwrite
    share(reinterpret_cast<float (*)[4][UNITS][PITCH]>(shared), sums, warp, lane);
  }

  MEMBER void multiply_tile(const unsigned char* weights, const unsigned char* rows,
                            float (&sums)[2][BATCHES][4], int lane) {
    unsigned b[BATCHES][4];  // of both steps
#pragma unroll
    for (int batch = 0; batch < BATCHES; ++batch) {
      load_matrix_x4(b[batch], rows + place(batch * 8, lane % 8, lane / 8));
      round_to_operand<T>(b[batch]);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // gates i and f, g and o
        unsigned a[4];
        load_matrix_x4(a, weights + place(half * 16, lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int batch = 0; batch < BATCHES; ++batch) {
          const unsigned pair[2] = {b[batch][2 * step], b[batch][2 * step + 1]};
          multiply_add<T>(sums[half][batch], a, pair);
        }
      }
    }
  }

  // Writes a warp's sums to shared memory, for all threads.
  MEMBER void share(float (*to)[4][UNITS][PITCH], const float (&sums)[2][BATCHES][4], int warp, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int batch = 0; batch < BATCHES; ++batch) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int row = batch * 8 + 2 * (lane % 4) + k % 2;
          to[warp][half * 2 + k / 2][place_of(lane / 4)][row] = sums[half][batch][k];
        }
      }
    }
    __syncthreads();
    parts = to;
  }
};
