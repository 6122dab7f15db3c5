// What a pool's step begins with: which row is whose, and x and h side by side for the first matmul.
//
// rows[row] becomes the slot of a row, -1 for a row that takes no step: padding, or a slot that can't be
// stepped. Slots that come from the host have been checked there; those of a device are checked here, and
// reported in `problems`.
#include "slots.cuh"

// A block has `blockDim.y` rows, each with threads side by side, which pass over all columns.
// W elements of the state at once: H, the operand's stride, X and the addresses must be multiples of W
// elements.
template <typename T, int W>
__global__ void __launch_bounds__(256)
    lstm_gather(T* operand,                       // (M, X + H): x, then the state; padding stays as it is
                i64 operand_stride,               // elements from row to row, as all strides here
                i64 X,                            // columns before the state's
                const T* x,                       // (B, I)
                i64 x_stride,                     //
                i64 I,                            //
                const T* states,                  // (capacity, H), contiguous: every layer's h
                i64 H,                            //
                typename Arithmetic<T>::type* c,  // (capacity, C), contiguous: zeroed where a row begins anew
                i64 C,                            //
                const i64* slots,                 // (B,), -1 for padding
                const unsigned char* is_first,    // (B,), 0 or 1, or null
                int* rows,                        // (M,): the result
                const unsigned char* live,        // (capacity,), 0 or 1, or null where the host has checked
                unsigned long long* claims,       // (capacity,): the last tick that a slot was stepped in
                i64 tick,                         // of this step; 32 bits would be used up in a day
                unsigned long long* problems,     // (3, 2): how many, and a slot, of each kind
                i64 capacity, i64 B, i64 M) {
  typedef typename Arithmetic<T>::type A;
  SHARED_ARRAY(int, slot_of, 256);
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (threadIdx.x == 0) {
    int slot = -1;
    if (row < B) {
      slot = live ? checked(slots[row], capacity, live, claims, tick, problems) : (int)slots[row];
    }
    slot_of[threadIdx.y] = slot;
    if (row < M) rows[row] = slot;
  }
  __syncthreads();
  const i64 slot = slot_of[threadIdx.y];
  if (slot < 0) return;

  const bool first = is_first && is_first[row];
  T* to = operand + row * operand_stride;
  for (i64 k = threadIdx.x; k < I; k += blockDim.x) to[k] = x[row * x_stride + k];
  // Two stores of whole vectors: one store of what is either zero or loaded is compiled to one of each
  // element.
  const Vector<T, W>* state = reinterpret_cast<const Vector<T, W>*>(states + slot * H);
  Vector<T, W>* to_state = reinterpret_cast<Vector<T, W>*>(to + X);
  Vector<T, W> zeros;
#pragma unroll
  for (int j = 0; j < W; ++j) zeros.at[j] = Narrow<T>::of(0);
  for (i64 k = threadIdx.x; k < H / W; k += blockDim.x) {
    if (first) {
      to_state[k] = zeros;
    } else {
      to_state[k] = state[k];
    }
  }
  if (first) {
    for (i64 k = threadIdx.x; k < C; k += blockDim.x) c[slot * C + k] = A(0);
  }
}
