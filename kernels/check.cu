// What a step of slots on a device begins with, where the step itself finds its rows.
#include "slots.cuh"

__global__ void __launch_bounds__(256)
    lstm_check(const i64* slots,              // (B,), -1 for padding
               i64* steppable,                // (B,): the result, -1 also for slots that can't be stepped
               const unsigned char* live,     // (capacity,), 0 or 1
               unsigned long long* claims,    // (capacity,): the last tick that a slot was stepped in
               i64 tick,                      // of this step
               unsigned long long* problems,  // (3, 2): how many, and a slot, of each kind
               i64 capacity, i64 B) {
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row < B) steppable[row] = checked(slots[row], capacity, live, claims, tick, problems);
}
