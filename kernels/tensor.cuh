// Rows times weights on tensor cores. Rows are the operand A of mma.sync, and weights are B.
//
// 32 rows of the interleaved weights are the four gates of 8 units. A thread has columns 2p and 2p + 1 of
// each 8, so its accumulators hold all gates of its units.
#pragma once

#include "pipeline_ahead.cuh"

// d += a b. Floats must be rounded to TF32: weights are stored so, and rows pass through `round_to_operand`.
template <typename T>
DEVICE void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (IsSame<T, float>::value) {
    mma_m16n8k8_tf32(d, a, b);
  } else {
    mma_m16n8k16<T>(d, a, b);
  }
}

template <typename T, int COUNT> DEVICE void round_to_operand(unsigned (&fragment)[COUNT]) {
  if constexpr (IsSame<T, float>::value) {
#pragma unroll
    for (int k = 0; k < COUNT; ++k) fragment[k] = to_tf32(__uint_as_float(fragment[k]));
  }
}

// A block has WARPS_R x WARPS_C warps, each of which has M x 16 rows and G groups of 8 units. STAGES: see
// pipeline.cuh.
template <typename T_, int WARPS_R, int WARPS_C, int M, int G, int BLOCKS_, int STAGES_ = 4> struct Tensor {
  typedef T_ T;
  static constexpr int THREADS = 32 * WARPS_R * WARPS_C, BLOCKS = BLOCKS_;
  static constexpr int ROWS = WARPS_R * M * 16, UNITS = WARPS_C * G * 8;
  static constexpr int STAGES = STAGES_, STAGE_BYTES = (ROWS + 4 * UNITS) * TILE_ROW;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  // A thread's rows, groups of units, and neighbouring units in a group.
  static constexpr int THREAD_ROWS = 2 * M, THREAD_GROUPS = G, THREAD_UNITS = 2;

  // Whether registers suffice to read UnitInputs before the product.
  static constexpr bool READS_EARLY = M * G <= 2;
  // Beside products of 16 bits or TF32, the errors of fast activations don't show.
  static constexpr bool FAST = true;

  float sums[M][G][4][4];
  int warp_row, warp_group, lane;

  MEMBER Tensor() {
    const int warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    warp_row = warp / WARPS_C * M * 16;
    warp_group = warp % WARPS_C * G;
  }

  MEMBER int row(int r) const { return warp_row + r * 8 + lane / 4; }
  MEMBER int unit(int g) const { return (warp_group + g) * 8 + 2 * (lane % 4); }
  MEMBER float sum(int r, int g, int gate, int e) const { return sums[r / 2][g][gate][r % 2 * 2 + e]; }

  // See pipeline.cuh.
  MEMBER void begin(unsigned char* shared, const Operands<T>& of) { begin_tiles<Tensor>(shared, of); }

  template <bool ALIGNED, bool RESIDENT = false, bool BEGUN = false>
  MEMBER void multiply(unsigned char* shared, const Operands<T>& of,
                       const unsigned char* resident = nullptr) {
#pragma unroll
    for (int k = 0; k < M * G * 16; ++k) sums[k / (G * 16)][k / 16 % G][k / 4 % 4][k % 4] = 0;

    if constexpr (BLOCKS == 1 && !RESIDENT) {  // with m, registers don't suffice
      Fragments of_step[2];
      multiply_tiles_ahead<Tensor, ALIGNED, RESIDENT, BEGUN>(
          shared, of, resident, [&](int step, const Staged& staged) { load(of_step[step], staged, step); },
          [&](int step, auto stage) { multiply_step(of_step[step], stage); });
    } else {
      multiply_tiles<Tensor, ALIGNED, RESIDENT, BEGUN>(
          shared, of, resident,
          [&](const unsigned char* rows, const unsigned char* weights) { multiply_tile(rows, weights); });
    }
  }

  MEMBER void multiply_tile(const unsigned char* rows, const unsigned char* weights) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      unsigned a[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) {
        load_a(a[m], rows, m, step);
        round_to_operand<T>(a[m]);
      }
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int gates = 0; gates < 4; gates += 2) {
          unsigned both[4];
          load_b(both, weights, g, gates, step);
          add_products(a, both, g, gates);
        }
      }
    }
  }

  // The operands of a step.
  struct Fragments {
    unsigned a[M][4], both[G][2][4];
  };

  MEMBER void load(Fragments& to, const Staged& staged, int step) {
#pragma unroll
    for (int m = 0; m < M; ++m) load_a(to.a[m], staged.rows, m, step);
#pragma unroll
    for (int k = 0; k < 2 * G; ++k) load_b(to.both[k / 2][k % 2], staged.weights, k / 2, k % 2 * 2, step);
  }

  template <class Stage> MEMBER void multiply_step(Fragments& of, Stage stage) {
#pragma unroll
    for (int m = 0; m < M; ++m) round_to_operand<T>(of.a[m]);
#pragma unroll
    for (int k = 0; k < 2 * G; ++k) {
      add_products(of.a, of.both[k / 2][k % 2], k / 2, k % 2 * 2);
      stage(k, 2 * G);
    }
  }

  MEMBER void load_a(unsigned (&a)[4], const unsigned char* rows, int m, int step) {
    load_matrix_x4(a, rows + place(warp_row + m * 16, lane % 16, step * 2 + lane / 16));
  }

  // Loads the fragments b of two gates.
  MEMBER void load_b(unsigned (&both)[4], const unsigned char* weights, int g, int gates, int step) {
    const int first = (warp_group + g) * 32 + gates * 8;
    load_matrix_x4(both, weights + place(first, lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
  }

  MEMBER void add_products(const unsigned (&a)[M][4], const unsigned (&both)[4], int g, int gates) {
    const unsigned b[2][2] = {{both[0], both[1]}, {both[2], both[3]}};
#pragma unroll
    for (int k = 0; k < 2 * M; ++k) multiply_add<T>(sums[k / 2][g][gates + k % 2], a[k / 2], b[k % 2]);
  }
};

// 128 rows x 64 units, 128 rows x 32 units, and 64 rows x 16 units.
template <typename T> using TensorWide = Tensor<T, 2, 4, 4, 2, 1>;
template <typename T> using TensorLarge = Tensor<T, 4, 2, 2, 2, 2>;
template <typename T, int STAGES = 4> using TensorMedium = Tensor<T, 2, 2, 2, 1, 4, STAGES>;
