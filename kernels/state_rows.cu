// Finds the states of slots in a pool with two rows of h for each slot: see rows.cuh.
#include "rows.cuh"

struct StateRowsArguments {
  const i64* slots;  // (B,)
  const u64* words;  // (capacity,)
  i64* rows;         // (B,): the result
  i64 B;
};

__global__ void __launch_bounds__(256) lstm_state_rows(const StateRowsArguments a) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k < a.B) a.rows[k] = 2 * a.slots[k] + (i64)(a.words[a.slots[k]] & 1);
}
