// Begins a pool's step: finds the slot of each row, and puts x and h side by side for the first matmul.
//
// slot_of_row[row] becomes the slot of a row. It is -1 if the row takes no step: padding, or a slot that
// can't be stepped. Slots from the host have been checked there. Slots on the device are checked here, and
// `audit` reports problems.
#include "slots.cuh"

template <typename T> struct GatherArguments {
  typedef typename Arithmetic<T>::type A;
  Matrix<T> operand;  // (M, X + H): x, then the state; padding is left as it is
  i64 X;              // columns before the state
  Matrix<const T> x;  // (B, I)
  i64 I;
  const T* all_h;  // (capacity, H), contiguous: every layer's h
  i64 H;
  A* c;  // (capacity, C), contiguous; zeroed if a row is reset
  i64 C;
  const i64* slots;               // (B,), -1 for padding
  const unsigned char* is_first;  // (B,), 0 or 1, or null
  int* slot_of_row;               // (M,): the result
  Audit audit;                    // nulls if the host has checked the slots
  i64 capacity, B, M;
};

// A block has `blockDim.y` rows. Neighbouring threads pass over all columns of a row. They move W elements of
// the state at once: H, the operand's stride, X and the addresses must be multiples of W elements.
template <typename T, int W> __global__ void __launch_bounds__(256) lstm_gather(const GatherArguments<T> a) {
  typedef typename Arithmetic<T>::type A;
  SHARED_ARRAY(int, slot_of, 256);
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (threadIdx.x == 0) {
    int slot = -1;
    if (row < a.B) {
      slot = a.audit.live ? checked(a.slots[row], a.capacity, a.audit) : (int)a.slots[row];
    }
    slot_of[threadIdx.y] = slot;
    if (row < a.M) a.slot_of_row[row] = slot;
  }
  __syncthreads();
  const i64 slot = slot_of[threadIdx.y];
  if (slot < 0) return;

  const bool first = a.is_first && a.is_first[row];
  T* to = a.operand.at + row * a.operand.stride;
  for (i64 k = threadIdx.x; k < a.I; k += blockDim.x) to[k] = a.x.at[row * a.x.stride + k];
  // Two stores of whole vectors: a single store of either zeros or loaded values would be compiled to one
  // for each element.
  const Vector<T, W>* state = reinterpret_cast<const Vector<T, W>*>(a.all_h + slot * a.H);
  Vector<T, W>* to_state = reinterpret_cast<Vector<T, W>*>(to + a.X);
  Vector<T, W> zeros;
#pragma unroll
  for (int j = 0; j < W; ++j) zeros.at[j] = Narrow<T>::of(0);
  for (i64 k = threadIdx.x; k < a.H / W; k += blockDim.x) {
    if (first) {
      to_state[k] = zeros;
    } else {
      to_state[k] = state[k];
    }
  }
  if (first) {
    for (i64 k = threadIdx.x; k < a.C; k += blockDim.x) a.c[slot * a.C + k] = A(0);
  }
}
