// One kernel for each function of kernels/primitives.cuh and kernels/activations.cuh, over arrays of `count`
// numbers.
#include "activations.cuh"
#include "primitives.cuh"

DEVICE i64 index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

template <typename T> __global__ void widened(const T* in, typename Arithmetic<T>::type* out, i64 count) {
  if (index() < count) out[index()] = widen(in[index()]);
}

template <typename T> __global__ void narrowed(const typename Arithmetic<T>::type* in, T* out, i64 count) {
  if (index() < count) out[index()] = Narrow<T>::of(in[index()]);
}

template <typename T, int W> __global__ void moved(const T* in, T* out, i64 count) {
  const i64 first = index() * W;
  if (first < count) store<W>(out + first, load<W>(in + first));
}

// Writes each block of 128 numbers back to front.
template <typename T> __global__ void shared(const T* in, T* out, i64 count) {
  SHARED_ARRAY(T, of_block, 128);
  if (index() < count) of_block[threadIdx.x] = in[index()];
  __syncthreads();
  if (index() < count) out[index()] = of_block[127 - threadIdx.x];
}

// Writes `count` numbers back to front, in one block, through the launch's dynamic shared memory.
template <typename T> __global__ void shared_dynamically(const T* in, T* out, i64 count) {
  DYNAMIC_SHARED_ARRAY(T, all);
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) all[i] = in[i];
  __syncthreads();
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) out[i] = all[count - 1 - i];
}

template <typename A, class FUNCTION> __global__ void activated(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = activate<FUNCTION>(in[index()]);
}

template <class FUNCTION> __global__ void fast(const float* in, float* out, i64 count) {
  if (index() < count) out[index()] = activate<FUNCTION, true>(in[index()]);
}

// x are the first `count` numbers, and y the others.
template <typename A> __global__ void fast_products(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = sigmoid_times_tangent_fast(in[index()], in[count + index()]);
}

template <typename A> __global__ void numbers_of_bits(const u64* in, A* out, i64 count) {
  if (index() < count) out[index()] = of_bits(in[index()]);
}

template <typename A> __global__ void sigmoids(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = sigmoid(in[index()]);
}

template <typename A> __global__ void exponentials(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = exponential(in[index()]);
}

template <typename A> __global__ void exponentials_minus_1(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = exponential_minus_1(in[index()]);
}

template <typename A> __global__ void logs_of_1_plus(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = log_1_plus(in[index()]);
}

template <typename A> __global__ void magnitudes(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = magnitude(in[index()]);
}

// a * a plus the number before, rounded once or twice.
template <typename A, bool ONCE> __global__ void squares_added(const A* in, A* out, i64 count) {
  if (index() >= count) return;
  const A a = in[index()], before = in[index() > 0 ? index() - 1 : 0];
  out[index()] = ONCE ? multiply_and_add(a, a, before) : add_rounded(a * a, before);
}

template <typename A> __global__ void clipped(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = clip(in[index()], A(0.75));
}

template <typename A> __global__ void exponentials_approx(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = exponential_approx(in[index()]);
}

template <typename A> __global__ void reciprocals_approx(const A* in, A* out, i64 count) {
  if (index() < count) out[index()] = reciprocal_approx(in[index()]);
}

template <typename A> __global__ void rounded_to_tf32(const A* in, unsigned* out, i64 count) {
  if (index() < count) out[index()] = to_tf32(in[index()]);
}

// Passes the first block's words to the second, each as soon as it isn't 0. Gives up instead of hanging.
template <typename T> __global__ void handed_over(const T* in, T* words, T* out, i64 count) {
  const i64 i = threadIdx.x;
  if (i >= count) return;
  if (blockIdx.x == 0) {
    store_relaxed(words + i, in[i]);
    return;
  }
  T word = 0;
  for (int tries = 0; word == 0 && tries < 1 << 24; ++tries) {
    word = load_relaxed(words + i);
    __nanosleep(20);
  }
  out[i] = word;
}

// Each block of one thread writes how many arrived before it, in rounds of `count`.
template <typename T> __global__ void arrived(T* counter, T* out, i64 count) {
  out[blockIdx.x] = arrive(counter, T(count));
}

// Thread i copies the first i bytes of row i. Rows have 16 bytes, and go to the first half of 32 bytes that
// were 0xAB.
template <typename T> __global__ void copied_in_part(const T* in, T* out, i64 count) {
  SHARED_ARRAY(T, rows, 32 * 32);
  for (int i = threadIdx.x; i < 32 * 32; i += blockDim.x) rows[i] = 0xAB;
  __syncthreads();
  const int row = threadIdx.x;
  if (row < count) copy_async_16(rows + row * 32, in + row * 16, row);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  for (i64 i = threadIdx.x; i < count * 32; i += blockDim.x) out[i] = rows[i];
}

// Moves 32 x 8 numbers in each of `count` steps. A step is a group of two copies a thread, and N groups are
// always in flight. A thread reads what another thread copied.
template <typename T, int N> __global__ void pipelined(const T* in, T* out, i64 count) {
  SHARED_ARRAY(T, stages, (N + 1) * 32 * 8);
  auto copy = [&](i64 step) {
    T* to = stages + (step % (N + 1) * 32 + threadIdx.x) * 8;
    const T* from = in + (step * 32 + threadIdx.x) * 8;
    for (int half = 0; half < 8 && step < count; half += 4) copy_async_16(to + half, from + half, 16);
    copy_async_commit();
  };
  for (i64 step = 0; step < N; ++step) copy(step);
  for (i64 step = 0; step < count; ++step) {
    copy(step + N);
    copy_async_wait<N>();
    __syncthreads();
    const T* from = stages + (step % (N + 1) * 32 + 31 - threadIdx.x) * 8;
    for (int i = 0; i < 8; ++i) out[(step * 32 + threadIdx.x) * 8 + i] = from[i];
    __syncthreads();
  }
}

// Loads 32 rows of 8 elements of 16 bits as four matrices. Lanes point to rows in another order, with gaps
// between rows. `out` gets the four registers of each lane.
template <typename T> __global__ void matrices(const T* in, unsigned* out) {
  SHARED_ARRAY(T, rows, 32 * 24);
  for (int i = 0; i < 8; ++i) rows[threadIdx.x * 24 + i] = in[threadIdx.x * 8 + i];
  __syncthreads();
  unsigned registers[4];
  load_matrix_x4(registers, rows + (threadIdx.x * 5 + 3) % 32 * 24);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = registers[i];
}

// d (16, 8) += a (16, K) b (8, K).T, with other matrices in every block. K elements of T are 32 bytes.
template <typename T> __global__ void multiplied(const T* a, const T* b, float* d) {
  const int K = 32 / sizeof(T), half = K / 2, lane = threadIdx.x;
  SHARED_ARRAY(T, a_rows, 16 * K);
  SHARED_ARRAY(T, b_rows, 8 * K);
  for (int i = lane; i < 16 * K; i += 32) a_rows[i] = a[(i64)blockIdx.x * 16 * K + i];
  for (int i = lane; i < 8 * K; i += 32) b_rows[i] = b[(i64)blockIdx.x * 8 * K + i];
  __syncthreads();
  unsigned of_a[4], of_b_twice[4];
  load_matrix_x4(of_a, a_rows + lane % 16 * K + lane / 16 * half);
  load_matrix_x4(of_b_twice, b_rows + lane % 8 * K + lane / 8 % 2 * half);
  unsigned of_b[2] = {of_b_twice[0], of_b_twice[1]};
  d += ((i64)blockIdx.x * 16 + lane / 4) * 8 + lane % 4 * 2;
  float sums[4] = {d[0], d[1], d[8 * 8], d[8 * 8 + 1]};
  if constexpr (IsSame<T, float>::value) {
    for (unsigned& bits : of_a) bits = to_tf32(__uint_as_float(bits));
    for (unsigned& bits : of_b) bits = to_tf32(__uint_as_float(bits));
    mma_m16n8k8_tf32(sums, of_a, of_b);
  } else {
    mma_m16n8k16<T>(sums, of_a, of_b);
  }
  d[0] = sums[0], d[1] = sums[1], d[8 * 8] = sums[2], d[8 * 8 + 1] = sums[3];
}

// d += a b, with each lane's fragments: 4 registers of a, 2 of b and 4 of d.
template <typename T> __global__ void fragments_multiplied(const unsigned* a, const unsigned* b, float* d) {
  unsigned of_a[4], of_b[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) of_a[i] = a[threadIdx.x * 4 + i], sums[i] = d[threadIdx.x * 4 + i];
  for (int i = 0; i < 2; ++i) of_b[i] = b[threadIdx.x * 2 + i];
  if constexpr (IsSame<T, float>::value) {
    mma_m16n8k8_tf32(sums, of_a, of_b);
  } else {
    mma_m16n8k16<T>(sums, of_a, of_b);
  }
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}
