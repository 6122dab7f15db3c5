// Rows times weights by scalar multiply-adds, in float32 or float64, in the order of K. So a row's sums have
// the same bits in a block of any size.
#pragma once

#include "pipeline.cuh"

// A block has 16 x R rows and 2 x L units. A thread has R rows, 16 apart, and 2 units, L apart. 16
// neighbouring threads have 8 units of 2 rows, whose m is in different banks. STAGES: see pipeline.cuh.
template <typename T_, int R, int L, int BLOCKS_, int STAGES_ = 4> struct Simt {
  typedef T_ T;
  static constexpr int THREADS = 16 * L, BLOCKS = BLOCKS_;
  static constexpr int ROWS = 16 * R, UNITS = 2 * L;
  static constexpr int STAGES = STAGES_, STAGE_BYTES = (ROWS + 4 * UNITS) * TILE_ROW;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static constexpr int THREAD_ROWS = R, THREAD_GROUPS = 2, THREAD_UNITS = 1;
  static constexpr bool READS_EARLY = false, FAST = false;  // as in Tensor

  T sums[R][2][4];

  MEMBER int row(int r) const { return threadIdx.x / 32 * (32 / L) + threadIdx.x / 8 % (32 / L) + 16 * r; }
  MEMBER int group(int g) const { return threadIdx.x % 32 / (256 / L) + L / 8 * g; }
  MEMBER int unit(int g) const { return group(g) * 8 + threadIdx.x % 8; }
  MEMBER T sum(int r, int g, int gate, int) const { return sums[r][g][gate]; }

  // See pipeline.cuh.
  MEMBER void begin(unsigned char* shared, const Operands<T>& of) { begin_tiles<Simt>(shared, of); }

  template <bool ALIGNED, bool RESIDENT = false, bool BEGUN = false>
  MEMBER void multiply(unsigned char* shared, const Operands<T>& of,
                       const unsigned char* resident = nullptr) {
#pragma unroll
    for (int k = 0; k < R * 8; ++k) sums[k / 8][k / 4 % 2][k % 4] = 0;
    multiply_tiles<Simt, ALIGNED, RESIDENT, BEGUN>(
        shared, of, resident,
        [&](const unsigned char* rows, const unsigned char* weights) { multiply_tile(rows, weights); });
  }

  MEMBER void multiply_tile(const unsigned char* rows, const unsigned char* weights) {
    const int each = CHUNK / (int)sizeof(T);
#pragma unroll(R > 1 ? 1 : CHUNKS)  // unrolled, it would load too far ahead for its registers
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      Vector<T, each> w[2][4];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int first = group(k / 4) * 32 + k % 4 * 8;
        w[k / 4][k % 4] =
            load<each>(reinterpret_cast<const T*>(weights + place(first, threadIdx.x % 8, chunk)));
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const Vector<T, each> a = load<each>(reinterpret_cast<const T*>(rows + place(16 * r, row(0), chunk)));
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          T& sum = sums[r][k / 4][k % 4];
#pragma unroll
          for (int e = 0; e < each; ++e) sum = multiply_and_add(a.at[e], w[k / 4][k % 4].at[e], sum);
        }
      }
    }
  }
};

// 128 rows of float32, or 64 of float64, x 32 units; 64 rows x 16 units; 16 rows x 16 units.
template <typename T> using SimtLarge = Simt<T, 32 / sizeof(T), 16, sizeof(T) == 8 ? 1 : 2>;
template <typename T, int STAGES = 4> using SimtMedium = Simt<T, 4, 8, 2, STAGES>;
template <typename T> using SimtSmall = Simt<T, 1, 8, 4>;
