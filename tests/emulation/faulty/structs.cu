// Multiplies the rows of a matrix by factors. The mistakes are in pointers of its struct of arguments.
// "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

enum Fault {
  SOUND,
  ROW_TOO_MANY,         // <= instead of <
  WRITE_THROUGH_CONST,  // casts away const
  NULL_POINTER,         // reads a pointer without checking for null
};

struct ScaleArguments {
  Matrix<const float> from;  // (B, N)
  Matrix<float> to;          // (B, N)
  const float* factors;      // (B,), or null for 2
  i64 B, N;
};

// Each row has a block.
template <int FAULT> __global__ void __launch_bounds__(32) scale(const ScaleArguments a) {
  const i64 end = FAULT == ROW_TOO_MANY ? a.B + 1 : a.B;
  for (i64 row = blockIdx.x; row < end; row += gridDim.x) {
    for (i64 k = threadIdx.x; k < a.N; k += blockDim.x) {
      const float value = a.from.at[row * a.from.stride + k];  // found at: LOAD
      float factor = 2;
      if (FAULT == NULL_POINTER || a.factors) factor = a.factors[row];  // found at: POINTER
      if (FAULT == WRITE_THROUGH_CONST) {
        const_cast<float*>(a.from.at)[row * a.from.stride] = 0;  // found at: CONST
      }
      a.to.at[row * a.to.stride + k] = factor * value;
    }
  }
}
