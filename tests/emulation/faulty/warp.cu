// Sums over the 32 lanes of a warp, and mistakes with shuffles and their masks.
// "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

static const unsigned ALL = 0xffffffffu;

enum Fault {
  NONE,
  MASK_WITHOUT_CALLER,  // lane 31 calls with a mask that leaves it out
  LANES_THAT_ENDED,     // the mask names lanes that have returned
  TWO_COLLECTIVES,      // half of the warp votes while the other half shuffles
  OVERLAPPING_MASKS,    // two halves that share a lane
  LANE_AT_A_BARRIER,    // lane 0 waits for its block while other lanes wait for lane 0
};

// sums[lane] = the sum of all lanes' values, in one warp.
template <int FAULT> __global__ void __launch_bounds__(32) warp_sum(const float* values, float* sums) {
  const int lane = threadIdx.x;
  if (FAULT == LANES_THAT_ENDED && lane >= 16) return;
  if (FAULT == TWO_COLLECTIVES && lane < 16) __ballot_sync(ALL, lane);  // found at: VOTE
  if (FAULT == LANE_AT_A_BARRIER && lane == 0) __syncthreads();         // found at: BARRIER
  unsigned mask = ALL;
  if (FAULT == MASK_WITHOUT_CALLER && lane == 31) mask = ALL >> 1;
  if (FAULT == OVERLAPPING_MASKS) mask = lane < 16 ? 0x0001ffffu : 0xffff0000u;
  float sum = values[lane];
  for (int bits = 16; bits > 0; bits /= 2) {
    sum += __shfl_xor_sync(mask, sum, bits);  // found at: SHUFFLE
  }
  sums[lane] = sum;
}

enum ExchangeFault {
  SOUND,
  NO_SYNC,      // assumes that the lanes of a warp run in step
  SYNC_OF_HALF  // each half waits only for itself
};

// reversed[lane] = values[31 - lane], through shared memory.
template <int FAULT>
__global__ void __launch_bounds__(32) reverse_warp(const float* values, float* reversed) {
  SHARED_ARRAY(float, row, 32);
  const int lane = threadIdx.x;
  row[lane] = values[lane];
  if (FAULT == SYNC_OF_HALF) __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
  if (FAULT == SOUND) __syncwarp();
  reversed[lane] = row[31 - lane];  // found at: READ
}
