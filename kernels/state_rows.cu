// Where the state of slots is in a pool that has two rows of h for each: see rows.cuh.
#include "rows.cuh"

__global__ void __launch_bounds__(256) lstm_state_rows(const i64* slots,  // (B,)
                                                       const u64* words,  // (capacity,)
                                                       i64* rows,         // (B,): the result
                                                       i64 B) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k < B) rows[k] = 2 * slots[k] + (i64)(words[slots[k]] & 1);
}
