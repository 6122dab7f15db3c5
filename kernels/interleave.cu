// Interleaves weights as a fused step reads them: in whole tiles, padded with zeros.
//
// 32 rows are the gates i, f, g and o of 8 neighbouring units. So a thread's part of 32 columns of a product
// has all gates of its units. The columns of x come first, then those of h.
#include "primitives.cuh"

// The weight to store. With ROUND it is rounded to the nearest TF32, because tensor cores would truncate it.
template <bool ROUND, typename T> DEVICE T kept(T weight) {
  if constexpr (ROUND) {
    static_assert(IsSame<T, float>::value, "only float32 is rounded to TF32");
    return __uint_as_float(to_tf32(weight));
  } else {
    return weight;
  }
}

// Both kernels are launched with rows on grid x and columns on grid y, so that no thread divides by a size.
// A thread writes one element. The number of rows is a multiple of 128, and a block's rows divide 128, so
// rows need no check.

template <typename T> struct InterleaveArguments {
  T* to;                   // (4N rounded up to 128, columns), contiguous
  i64 columns;             // of x and h, each padded
  i64 KX;                  // the first column of h in `to`
  Matrix<const T> weight;  // (4N, X + P): blocks i, f, g, o of N rows each
  i64 X;                   // the first column of h in `weight`
  i64 I, P, N;
};

template <typename T, bool ROUND>
__global__ void __launch_bounds__(256) lstm_interleave(const InterleaveArguments<T> a) {
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  const i64 unit = row / 32 * 8 + row % 8, gate = row % 32 / 8;
  const bool of_h = column >= a.KX;
  const i64 k = of_h ? column - a.KX : column;
  T value = Narrow<T>::of(0);
  if (unit < a.N && k < (of_h ? a.P : a.I)) {
    value = kept<ROUND>(a.weight.at[(gate * a.N + unit) * a.weight.stride + (of_h ? a.X : 0) + k]);
  }
  a.to[row * a.columns + column] = value;
}

// A projection's weights, padded with rows and columns of zeros.
template <typename T> struct PadArguments {
  T* to;                       // (P rounded up to 128, columns), contiguous
  i64 columns;                 // N, padded
  Matrix<const T> projection;  // (P, N)
  i64 P, N;
};

template <typename T, bool ROUND> __global__ void __launch_bounds__(256) lstm_pad(const PadArguments<T> a) {
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  T value = Narrow<T>::of(0);
  if (row < a.P && column < a.N) value = kept<ROUND>(a.projection.at[row * a.projection.stride + column]);
  a.to[row * a.columns + column] = value;
}
