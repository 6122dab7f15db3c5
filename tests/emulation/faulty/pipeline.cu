// A matrix product on tensor cores whose operands are copied in the background, and mistakes in such a
// pipeline. "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

enum Fault {
  NONE,
  TAIL_NOT_GUARDED,       // copies rows that the operand doesn't have
  WAIT_TOO_SHORT,         // leaves two groups in flight, when there are only two
  NO_BARRIER_AFTER_WAIT,  // a thread has waited only for its own copies
  STAGE_REUSED,           // the next copies overwrite data that other warps still read
  NEVER_AWAITED,          // ends with a copy in flight
  HALF_A_WARP,            // an mma without all lanes of the warp
};

// Elements from row to row of a tile: 16, and padding that puts adjacent rows in different banks.
static const int PITCH = 24;
static const int ROWS = 32;

// out (M, 8) = a (M, K) @ b (8, K).T. K must be a multiple of 16. Every 32 rows have a block of two warps.
template <int FAULT>
__global__ void __launch_bounds__(64) multiply(const __half* a, const __half* b, float* out, i64 M, i64 K) {
  SHARED_ARRAY(__half, a_tiles, 2 * ROWS * PITCH);
  SHARED_ARRAY(__half, b_tiles, 2 * 8 * PITCH);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const i64 first_row = (i64)blockIdx.x * ROWS;

  auto copy_tiles = [&](int stage, i64 k) {
    const int row = thread / 2, column = thread % 2 * 8;
    const bool valid = FAULT == TAIL_NOT_GUARDED || first_row + row < M;
    const __half* from = a + (valid ? (first_row + row) * K + k + column : 0);
    copy_async_16(&a_tiles[(stage * ROWS + row) * PITCH + column], from, valid ? 16 : 0);  // found at: COPY
    if (row < 8) {
      from = b + row * K + k + column;
      copy_async_16(&b_tiles[(stage * 8 + row) * PITCH + column], from, 16);  // found at: COPY
    }
    copy_async_commit();
  };

  float sums[4] = {0, 0, 0, 0};
  const int steps = int(K / 16);
  copy_tiles(0, 0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy_tiles((step + 1) % 2, (step + 1) * 16);
    } else {
      copy_async_commit();
    }
    if (FAULT == WAIT_TOO_SHORT) {
      copy_async_wait<2>();
    } else {
      copy_async_wait<1>();
    }
    if (FAULT != NO_BARRIER_AFTER_WAIT) __syncthreads();
    const __half* a_tile = a_tiles + (step % 2 * ROWS + warp * 16) * PITCH;
    const __half* b_tile = b_tiles + step % 2 * 8 * PITCH;
    unsigned a_part[4], b_both[4];
    load_matrix_x4(a_part, a_tile + lane % 16 * PITCH + lane / 16 * 8);    // found at: LOAD
    load_matrix_x4(b_both, b_tile + lane % 8 * PITCH + lane / 8 % 2 * 8);  // found at: LOAD
    const unsigned b_part[2] = {b_both[0], b_both[1]};
    if (FAULT == HALF_A_WARP && lane >= 16) return;
    mma_m16n8k16<__half>(sums, a_part, b_part);  // found at: PRODUCT
    if (FAULT != STAGE_REUSED) __syncthreads();
  }
  if (FAULT == NEVER_AWAITED) copy_tiles(0, 0);
  for (int i = 0; i < 4; ++i) {
    const i64 row = first_row + warp * 16 + lane / 4 + i / 2 * 8;
    if (row < M) out[row * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

enum TailFault {
  SOUND,
  BYTES_AFTER_THE_ROW,  // copies all 16 bytes though the row ends within them
  MORE_THAN_16,         // counts the rest of the row, not of its 16 bytes
  LESS_THAN_NONE,       // counts the rest even after the row's end
};

// Pads rows of N floats with zeros to 128. Each row has a block, and each 16 bytes a thread.
template <int FAULT>
__global__ void __launch_bounds__(32) pad_rows(const float* from, i64 from_stride, float* to, i64 N) {
  SHARED_ARRAY(float, row, 128);
  const int first = threadIdx.x * 4;
  int bytes = (int)(N - first) * 4;
  if (FAULT != MORE_THAN_16 && bytes > 16) bytes = 16;
  if (FAULT != LESS_THAN_NONE && bytes < 0) bytes = 0;
  if (FAULT == BYTES_AFTER_THE_ROW && bytes > 0) bytes = 16;
  copy_async_16(row + first, from + blockIdx.x * from_stride + first, bytes);  // found at: TAIL
  copy_async_commit();
  copy_async_wait<0>();
  for (int i = 0; i < 4; ++i) to[blockIdx.x * 128 + first + i] = row[first + i];
}

// d (16, 8) = a (16, 8) @ b (8, 8) in TF32, with fragments read straight from memory.
__global__ void __launch_bounds__(32) multiply_tf32(const float* a, const float* b, float* d) {
  const int row = threadIdx.x / 4, column = threadIdx.x % 4;
  const unsigned a_part[4] = {
      __float_as_uint(a[row * 8 + column]), __float_as_uint(a[(row + 8) * 8 + column]),
      __float_as_uint(a[row * 8 + column + 4]), __float_as_uint(a[(row + 8) * 8 + column + 4])};
  const unsigned b_part[2] = {__float_as_uint(b[column * 8 + row]),
                              __float_as_uint(b[(column + 4) * 8 + row])};
  float sums[4] = {0, 0, 0, 0};
  mma_m16n8k8_tf32(sums, a_part, b_part);
  for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + column * 2 + i % 2] = sums[i];
}
