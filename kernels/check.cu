// Checks slots that are on the device, before a step that maps its own rows.
#include "slots.cuh"

struct CheckArguments {
  const i64* slots;  // (B,), -1 for padding
  i64* steppable;    // (B,): the result, -1 for padding and for slots that can't be stepped
  Audit audit;
  i64 capacity, B;
};

__global__ void __launch_bounds__(256) lstm_check(const CheckArguments a) {
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row < a.B) a.steppable[row] = checked(a.slots[row], a.capacity, a.audit);
}
