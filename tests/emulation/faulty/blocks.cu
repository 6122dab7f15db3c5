// Blocks that work together, and mistakes in that.
// "found at" names the lines where tests expect the checker to find a fault.
#include "primitives.cuh"

enum SumFault {
  SOUND,
  PLAIN_ADD,   // +=, though two blocks may read the same old value
  PLAIN_READ,  // reads a sum that others are still adding to
};

// Adds element k of each of the B rows to sums[k], with rows dealt out to the blocks. seen[block] is the
// sums[0] that the block sees.
template <int FAULT>
__global__ void __launch_bounds__(32) column_sums(const float* rows, float* sums, float* seen, i64 B, i64 N) {
  for (i64 row = blockIdx.x; row < B; row += gridDim.x) {
    for (i64 k = threadIdx.x; k < N; k += blockDim.x) {
      const float value = rows[row * N + k];
      if (FAULT == PLAIN_ADD) {
        sums[k] += value;  // found at: ADD
      } else {
        atomicAdd(sums + k, value);  // found at: SUM
      }
    }
  }
  if (threadIdx.x == 0) {
    seen[blockIdx.x] = FAULT == PLAIN_READ ? sums[0] : atomicAdd(sums, 0.0f);  // found at: SUM
  }
}

enum GridFault {
  NONE,
  NO_GRID_BARRIER,        // blocks run ahead of each other
  NO_BLOCK_BARRIER,       // a block's first thread arrives before its others have written
  RELAXED_WITHOUT_FENCE,  // the barrier counts, but doesn't order memory
  SINGLE_BUFFER,          // overwrites values that other blocks still read
};

// Waits until all blocks of the grid have arrived `round` times.
template <int FAULT> DEVICE void grid_barrier(unsigned* arrived, unsigned round) {
  if (FAULT != NO_BLOCK_BARRIER) __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned all = round * gridDim.x;
    if (FAULT == RELAXED_WITHOUT_FENCE) {
      atomicAdd(arrived, 1u);
      while (load_relaxed(arrived) < all) __nanosleep(20);
    } else {
      add_release(arrived, 1u);
      while (load_acquire(arrived) < all) __nanosleep(20);  // found at: SPIN
    }
  }
  __syncthreads();
}

// Replaces every value by the mean of itself and the next one, cyclically, `steps` times. Each value has a
// thread. Of values (2, N), row 0 holds the initial ones and row steps % 2 the final ones.
template <int FAULT>
__global__ void __launch_bounds__(32) diffuse(float* values, unsigned* arrived, int steps, i64 N) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  for (int step = 0; step < steps; ++step) {
    const int row = FAULT == SINGLE_BUFFER ? 0 : step % 2;
    const float* old = values + row * N;
    float* next = values + (FAULT == SINGLE_BUFFER ? 0 : 1 - row) * N;
    const float mean = (old[k] + old[(k + 1) % N]) / 2;  // found at: READ
    next[k] = mean;                                      // found at: WRITE
    if (FAULT != NO_GRID_BARRIER) grid_barrier<FAULT>(arrived, step + 1);
  }
}

enum LastFault { RIGHT, NO_FENCE };

// total[0] = the sum of all N values. Each block sums its own, and the last to finish adds up these sums.
template <int FAULT>
__global__ void __launch_bounds__(32)
    total_by_last(const float* values, float* partial, unsigned* finished, float* total) {
  float sum = values[blockIdx.x * 32 + threadIdx.x];
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = sum;
  if (FAULT != NO_FENCE) __threadfence();
  if (atomicAdd(finished, 1u) + 1 < gridDim.x) return;
  if (FAULT != NO_FENCE) __threadfence();
  float all = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) all += partial[block];  // found at: PARTIAL
  total[0] = all;
}

enum WordFault {
  WORD_ALONE,    // only the word itself is read
  FENCED,        // fences order the values before the word
  RELAYED,       // the next block adds to the word, which still releases the first block's values
  READ_PLAINLY,  // plain read of a word that another block writes
  UNFENCED,      // the word doesn't order the values
  REPLACED,      // the next block's store drops what the first block released
};

// Passes values from the first block to the last. A word says that they are ready.
template <int FAULT>
__global__ void __launch_bounds__(32)
    publish(const float* in, float* values, unsigned long long* word, float* out) {
  const unsigned thread = threadIdx.x, last = gridDim.x - 1;
  if (blockIdx.x == 0) {
    values[thread] = in[thread];  // found at: VALUES
    __syncthreads();
    if (thread != 0) return;
    if (FAULT == RELAYED || FAULT == REPLACED) {
      store_release(word, 1ull);
    } else {
      if (FAULT == FENCED) __threadfence();
      store_relaxed(word, 1ull);  // found at: WORD
    }
  } else if (blockIdx.x < last) {
    if (thread != 0) return;
    while (load_relaxed(word) == 0) __nanosleep(20);
    if (FAULT == RELAYED) {
      atomicAdd(word, 1ull);
    } else {
      store_relaxed(word, 2ull);
    }
  } else if (FAULT == READ_PLAINLY) {
    out[thread] = *word;  // found at: WORD
  } else {
    while (load_relaxed(word) < last) __nanosleep(20);
    if (FAULT != UNFENCED) __threadfence();
    out[thread] = FAULT == WORD_ALONE ? load_relaxed(word) : values[thread];  // found at: VALUES
  }
}

// Waits for a flag that is never set, in a loop without a pause.
__global__ void __launch_bounds__(32) wait_for_nobody(const unsigned* flag) {
  while (load_acquire(flag) == 0) {  // found at: NOBODY
  }
}
