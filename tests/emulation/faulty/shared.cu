// Sums of a row by a block of 64 threads in shared memory, and mistakes with that memory and its barriers.
// "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

enum Fault {
  NONE,
  READ_TOO_EARLY,     // no barrier between the writes and the reads
  REUSED_TOO_EARLY,   // no barrier between the reads and the writes of the next pass
  NEIGHBOUR,          // reads an element that another thread is about to write
  PARTLY_WRITTEN,     // threads beyond the row's end don't write their part
  PAST_THE_END,       // writes one element beyond the array
  DIVERGENT_BARRIER,  // a barrier for only some threads, while others go on to the next
  EARLY_EXIT,         // threads without work leave before the barrier
};

// sums[row] = the sum of the row, and of its squares. Each row of N elements has a block.
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

// Reverses each row of N elements, in dynamic shared memory of as many. The fault is a launch with too few
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

// twice[k] = 2 * k for 32 lanes. The first warp writes, the second reads, and the third takes no part.
template <int FAULT> __global__ void __launch_bounds__(96) hand_over(float* twice) {
  SHARED_ARRAY(float, values, 32);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) values[lane] = 2.0f * lane;
  const int threads = FAULT == TOO_FEW ? 96 : 64;
  if (FAULT != NO_BARRIER && warp < 2) named_barrier(1, threads);  // found at: NAMED_BARRIER
  if (warp == 1) twice[lane] = values[lane];                       // found at: HANDED_OVER
}
