// Records the operands of each product in a tile, and where its sums go. Nothing is multiplied.
#include "primitives.cuh"

static const int MOST = 64, NUMBERS = 10;  // products of a thread; numbers of a product
static unsigned* recorded;                 // (threads, MOST, NUMBERS)
static int* recorded_products;             // (threads,)

// Records registers of a and b. A sum becomes the number of the product that was first added to it.
DEVICE void record_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const int product = threadIdx.x * MOST + recorded_products[threadIdx.x]++;
  unsigned* to = recorded + product * NUMBERS;
  for (int i = 0; i < 4; ++i) to[i] = a[i];
  for (int i = 0; i < 2; ++i) to[4 + i] = b[i];
  for (int i = 0; i < 4; ++i) {
    if (d[i] == 0) d[i] = float(4 * product + i + 1);
    to[6 + i] = unsigned(d[i]) - 1;
  }
}
template <typename T>
DEVICE void record_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  record_product(d, a, b);
}
#define mma_m16n8k16 record_m16n8k16
#define mma_m16n8k8_tf32 record_product

#include "tensor_small.cuh"

// Multiplies one tile of K. `sums` gets the row, unit, gate and sum of each of a thread's sums; -1 for idle
// threads.
template <class Tile>
__global__ void record(const typename Tile::T* x, const typename Tile::T* weight, int* products,
                       unsigned* operands, int* sums) {
  typedef typename Tile::T T;
  DYNAMIC_SHARED_ARRAY(unsigned char, shared);
  SHARED_ARRAY(Row<T>, rows, Tile::ROWS);
  const int K = Operands<T>::K;
  for (int r = threadIdx.x; r < Tile::ROWS; r += Tile::THREADS) {
    rows[r] = Row<T>{x + r * K, nullptr, nullptr, nullptr, nullptr};
  }
  recorded = operands;
  recorded_products = products;
  __syncthreads();
  Tile tile;
  tile.template multiply<true>(shared, Operands<T>{rows, K, 0, weight, K});
  int* to = sums + threadIdx.x * (Tile::THREAD_ROWS * Tile::THREAD_GROUPS * 4 * Tile::THREAD_UNITS * 4);
  for (int k = 0; k < Tile::THREAD_ROWS; ++k) {
    for (int g = 0; g < Tile::THREAD_GROUPS; ++g) {
      for (int gate = 0; gate < 4; ++gate) {
        for (int e = 0; e < Tile::THREAD_UNITS; ++e, to += 4) {
          const bool idle = tile.row(k) >= Tile::ROWS;
          to[0] = tile.row(k), to[1] = tile.unit(g) + e, to[2] = gate;
          to[3] = idle ? -1 : int(tile.sum(k, g, gate, e)) - 1;
        }
      }
    }
  }
}
