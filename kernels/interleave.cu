// Weights as a step in one kernel reads them: in whole tiles, with zeros where there are no weights.
//
// 32 rows are the four gates of 8 neighbouring units, i, f, g and o, so that a thread that has its part of
// 32 columns of products has all gates of its units. x's columns come first, and h's after them.
#include "primitives.cuh"

// A weight as it is kept: where it is ROUNDed, as the TF32 number that tensor cores would read, nearest and
// not cut off.
template <bool ROUND, typename T> DEVICE T kept(T weight) {
  if constexpr (ROUND) {
    static_assert(IsSame<T, float>::value, "float32 is rounded to TF32");
    return __uint_as_float(to_tf32(weight));
  } else {
    return weight;
  }
}

// Both launched with rows on grid x and columns on grid y, so that no thread divides by a size; a thread
// writes one element. The rows are a multiple of 128, which every block divides: none is beyond the last.

template <typename T> struct InterleaveArguments {
  T* to;                   // (N rounded up to 32, times 4; columns), contiguous
  i64 columns;             // of x and h, each padded
  i64 KX;                  // where h's begin there
  Matrix<const T> weight;  // (4N, X + P): of gates i, f, g and o one after another
  i64 X;                   // where h's begin here
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

// A projection's weights, with rows and columns of zeros after them.
template <typename T> struct PadArguments {
  T* to;                       // (P rounded up to 128, columns), contiguous
  i64 columns;                 // of N, padded
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
