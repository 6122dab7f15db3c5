// mma.sync and ldmatrix, with the PTX manual's layout of fragments.
// Of each fragment, lane l holds the pair l % 4 of elements in row (or column) l / 4.
#pragma once

#include <cstdint>
#include <cstring>

#include "language.h"

namespace emulation {

// A register's lower or upper 16 bits, as a float.
template <class T> UNCHECKED float half_of_register(unsigned bits, int upper) {
  const uint16_t part = static_cast<uint16_t>(upper ? bits >> 16 : bits);
  T value;
  memcpy(static_cast<void*>(&value), &part, sizeof part);
  return static_cast<float>(value);
}

// TF32 is the upper 19 bits of a float32. The hardware ignores the rest.
inline UNCHECKED float tf32_of_register(unsigned bits) {
  float value;
  bits &= ~0x1fffu;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// d (16, 8) += a (16, K) @ b (K, 8), with the fragments of one lane.
template <class T, int K> struct MatrixProduct {
  float d[4];
  unsigned a[4], b[2];

  static UNCHECKED void unpack(const MatrixProduct& part, int lane, float (&A)[16][K], float (&B)[K][8]) {
    const int group = lane >> 2, pair = lane & 3;
    for (int r = 0; r < 4; ++r) {
      const int row = group + 8 * (r & 1);
      if constexpr (K == 16) {
        for (int e = 0; e < 2; ++e) A[row][2 * pair + e + 8 * (r >> 1)] = half_of_register<T>(part.a[r], e);
      } else {
        A[row][pair + 4 * (r >> 1)] = tf32_of_register(part.a[r]);
      }
    }
    for (int r = 0; r < 2; ++r) {
      if constexpr (K == 16) {
        for (int e = 0; e < 2; ++e) B[2 * pair + e + 8 * r][group] = half_of_register<T>(part.b[r], e);
      } else {
        B[pair + 4 * r][group] = tf32_of_register(part.b[r]);
      }
    }
  }

  static UNCHECKED void run(void** lanes, unsigned) {
    float A[16][K], B[K][8];
    for (int lane = 0; lane < 32; ++lane) unpack(*static_cast<MatrixProduct*>(lanes[lane]), lane, A, B);
    for (int lane = 0; lane < 32; ++lane) {
      MatrixProduct& part = *static_cast<MatrixProduct*>(lanes[lane]);
      for (int i = 0; i < 4; ++i) {
        const int row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
        for (int k = 0; k < K; ++k) part.d[i] += A[row][k] * B[k][column];
      }
    }
  }
};

template <class T, int K>
EMULATED void matrix_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  MatrixProduct<T, K> part;
  for (int i = 0; i < 4; ++i) part.d[i] = d[i], part.a[i] = a[i];
  for (int i = 0; i < 2; ++i) part.b[i] = b[i];
  warp_collective(0xffffffffu, MatrixProduct<T, K>::run, &part, false);
  for (int i = 0; i < 4; ++i) d[i] = part.d[i];
}

// Four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix l / 8.
struct MatrixLoad {
  uint32_t row[4];  // the 16 bytes at that address
  uint32_t received[4];

  static UNCHECKED void run(void** lanes, unsigned) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int lane = 0; lane < 32; ++lane) {
        const MatrixLoad& source = *static_cast<MatrixLoad*>(lanes[8 * matrix + (lane >> 2)]);
        static_cast<MatrixLoad*>(lanes[lane])->received[matrix] = source.row[lane & 3];
      }
    }
  }
};

}  // namespace emulation

// mma.sync.aligned.m16n8k16.row.col.f32 of __half or __nv_bfloat16.
template <class T> EMULATED void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulation::matrix_product<T, 16>(d, a, b);
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32.
EMULATED void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulation::matrix_product<float, 8>(d, a, b);
}

// cvt.rna.tf32.f32: rounds to the nearest number of 10 bits, ties away from zero. As on a GPU, a NaN becomes
// infinite if only its lower 13 bits make it one.
EMULATED unsigned to_tf32(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? bits + 0x1000u : bits) & ~0x1fffu;
}

// ldmatrix.sync.aligned.m8n8.x4.shared.b16.
EMULATED void load_matrix_x4(unsigned (&to)[4], const void* row) {
  emulation::MatrixLoad part;
  emulation::read_matrix_row(part.row, row);
  emulation::warp_collective(0xffffffffu, emulation::MatrixLoad::run, &part, false);
  for (int i = 0; i < 4; ++i) to[i] = part.received[i];
}
