// Gathers rows of an array into another, by vectors of W elements. The mistakes are in addresses.
// "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

// The type of an element's index. 64 bits are correct.
#ifndef INDEX
#define INDEX i64
#endif

enum Fault {
  NONE,
  RAGGED_TAIL,          // rounds up the vectors of a row if N is not a multiple of W
  ROW_TOO_MANY,         // <= instead of <
  MISSED_STRIDE,        // assumes that rows are contiguous
  WRITE_THROUGH_CONST,  // casts away const from memory that other kernels read
  SAME_ELEMENT,         // all threads write the same element
};

// to[row] = from[slots[row]], or from[row] if slots is null. Each row of N elements has a block.
template <int FAULT, typename T, int W>
__global__ void __launch_bounds__(32)
    gather(const T* from, i64 from_stride, const int* slots, T* to, i64 to_stride, i64 B, i64 N) {
  const i64 vectors = FAULT == RAGGED_TAIL ? (N + W - 1) / W : N / W;
  const i64 end = FAULT == ROW_TOO_MANY ? B + 1 : B;
  const INDEX stride = FAULT == MISSED_STRIDE ? N : from_stride;
  for (i64 row = blockIdx.x; row < end; row += gridDim.x) {
    const INDEX source = slots ? slots[row] : row;
    const INDEX first = source * stride;  // found at: INDEX
    for (i64 vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
      const Vector<T, W> value = load<W>(from + first + vector * W);  // found at: LOAD
      if (FAULT == WRITE_THROUGH_CONST) {
        store<W>(const_cast<T*>(from) + first + vector * W, value);  // found at: CONST
      }
      const i64 place = FAULT == SAME_ELEMENT ? 0 : vector * W;
      store<W>(to + row * to_stride + place, value);  // found at: STORE
    }
  }
}

enum ArithmeticFault {
  SOUND,
  NULL_POINTER,  // reads a pointer without checking for null
  LOCAL_ARRAY,   // the fifth of four elements
  WIDE_SHIFT,    // shifts a 32-bit number by 32
};

// bits[thread] = the sum of the first `count` numbers (at most 4), shifted left.
template <int FAULT>
__global__ void __launch_bounds__(32) shifted_sums(const int* numbers, int count, int shift, int* bits) {
  int local[4] = {1, 2, 3, 4};
  int sum = 0;
  const int end = FAULT == LOCAL_ARRAY ? count + 1 : count;
  for (int k = 0; k < end; ++k) {
    if (FAULT == NULL_POINTER || numbers) local[k] = numbers[k];  // found at: POINTER
    sum += local[k];                                              // found at: LOCAL
  }
  const int by = FAULT == WIDE_SHIFT ? shift + 32 : shift;
  bits[threadIdx.x] = sum << by;  // found at: SHIFT
}
