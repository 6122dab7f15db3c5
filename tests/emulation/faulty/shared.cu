// Sums over a row by a block of 64 threads, through shared memory; and what goes wrong with it and its
// barriers. "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

enum Fault {
  NONE,
  READ_TOO_EARLY,     // no barrier between the writes and the read of them all
  REUSED_TOO_EARLY,   // no barrier between the read and the next pass' writes
  NEIGHBOUR,          // reads what another thread is about to write
  PARTLY_WRITTEN,     // threads beyond the row's end leave their part as it is
  PAST_THE_END,       // writes one element beyond the array
  DIVERGENT_BARRIER,  // a barrier for some threads only, while the others go on to the next
  EARLY_EXIT,         // threads without work leave before the barrier
};

// sums[row] = the sum of row, and of its squares; a block for each row of N elements.
template <int FAULT> __global__ void __launch_bounds__(64) row_sums(const float* rows, float* sums, i64 N) {
  SHARED_ARRAY(float, part, 64);
  const int thread = threadIdx.x;
  if (FAULT == EARLY_EXIT && thread >= N) return;
  for (int squares = 0; squares < 2; ++squares) {
    float sum = 0;
    for (i64 k = thread; k < N; k += 64) {
      const float value = rows[blockIdx.x * N + k];
      sum += squares ? value * value : value;
    }
    const int place = FAULT == PAST_THE_END ? thread + 1 : thread;
    if (FAULT != PARTLY_WRITTEN || thread < N) part[place] = sum;  // found at: WRITE
    if (FAULT == NEIGHBOUR) part[thread] += part[63 - thread];     // found at: NEIGHBOUR
    if (FAULT == DIVERGENT_BARRIER && thread < 32) {
      __syncthreads();  // found at: BARRIER
    }
    if (FAULT != READ_TOO_EARLY) {
      __syncthreads();  // found at: BARRIER
    }
    if (thread == 0) {
      float total = 0;
      for (int k = 0; k < 64; ++k) total += part[k];  // found at: READ
      sums[blockIdx.x * 2 + squares] = total;
    }
    if (FAULT != REUSED_TOO_EARLY) __syncthreads();
  }
}

// Reverses each row of N elements, in dynamic shared memory of as many; the fault is the launch's, of too few
// bytes.
__global__ void __launch_bounds__(64) reverse_rows(float* rows, i64 N) {
  DYNAMIC_SHARED_ARRAY(float, row);
  for (i64 k = threadIdx.x; k < N; k += blockDim.x) row[k] = rows[blockIdx.x * N + k];  // found at: DYNAMIC
  __syncthreads();
  for (i64 k = threadIdx.x; k < N; k += blockDim.x) rows[blockIdx.x * N + k] = row[N - 1 - k];
}

enum GroupFault {
  SOUND,
  NO_BARRIER,  // the second warp doesn't wait for the first
  TOO_FEW,     // waits for a warp that never comes
};

// twice[k] = 2 * k for 32 lanes: the first warp writes, the second reads, and the third has no part in it.
template <int FAULT> __global__ void __launch_bounds__(96) hand_over(float* twice) {
  SHARED_ARRAY(float, values, 32);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) values[lane] = 2.0f * lane;
  const int threads = FAULT == TOO_FEW ? 96 : 64;
  if (FAULT != NO_BARRIER && warp < 2) named_barrier(1, threads);  // found at: NAMED_BARRIER
  if (warp == 1) twice[lane] = values[lane];                       // found at: HANDED_OVER
}
