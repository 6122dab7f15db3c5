// Copies tiles of the operands to shared memory. K runs over x, then over h, in pieces of 64 bytes.
//
// A tile's row is 4 chunks of 16 bytes. They are swizzled. So 8 neighbouring rows have chunk k in 8
// different groups of banks, and 4 of them have chunks 2k and 2k + 1 in 8 groups.
#pragma once

#include "rows.cuh"

// The bytes of a chunk, the chunks of a tile's row, and its bytes.
static constexpr int CHUNK = 16, CHUNKS = 4, TILE_ROW = CHUNK * CHUNKS;

// The offset of a row's chunk in a tile.
DEVICE int place(int row, int chunk) { return row * TILE_ROW + ((chunk ^ (row & 2 | row >> 2 & 1)) * CHUNK); }

// The same for row `first + row`, where `first` is a multiple of 8. The compiler can't know that such rows
// have the same swizzle.
DEVICE int place(int first, int row, int chunk) { return first * TILE_ROW + place(row, chunk); }

// The operands of a tile's product: rows of [x | h] and rows of interleaved weights.
template <typename T> struct Operands {
  static constexpr int K = TILE_ROW / sizeof(T);  // elements of a tile's row
  const Row<T>* rows;                             // a block's, in shared memory
  int I, P;                                       // elements of x, of h
  const T* weight;  // a block's first row; x's part and h's are padded with zeros to whole tiles
  i64 weight_stride;

  MEMBER int x_tiles() const { return (I + K - 1) / K; }
  MEMBER int tiles() const { return x_tiles() + (P + K - 1) / K; }
};

// One of the parts in which a thread queues its copies of a tile. Those of weights are halfway between those
// of rows. Copies that aren't wanted depend on a predicate. A branch would keep them together.
struct Part {
  int at = 0, parts = 1;
  bool wanted = true;

  MEMBER bool has_of_rows(int k, int copies) const { return k * parts / copies == at; }
  MEMBER bool has_of_weights(int k, int copies) const { return (k * parts + parts / 2) / copies == at; }
};

// Queues the copies of a tile's weights (ROWS, K), shared among THREADS.
template <int ROWS, int THREADS, typename T>
DEVICE void stage_weights(unsigned char* to, const Operands<T>& of, int tile, int thread, Part part = {}) {
  static_assert(ROWS * CHUNKS % THREADS == 0, "no thread is left over");
#pragma unroll
  for (int k = 0; k < ROWS * CHUNKS / THREADS; ++k) {
    if (!part.has_of_weights(k, ROWS * CHUNKS / THREADS)) continue;
    const int first = k * THREADS / CHUNKS, row = thread / CHUNKS, chunk = thread % CHUNKS;
    const T* from =
        of.weight + (first + row) * of.weight_stride + tile * of.K + chunk * (CHUNK / (int)sizeof(T));
    copy_async_16(to + place(first, row, chunk), from, CHUNK, part.wanted);
  }
}

// Queues the copies of x or h (ROWS, K). Null rows, and columns past a row's end, become zeros.
// ALIGNED: rows of x and h begin at multiples of 16 bytes. If not, elements are copied one by one,
// synchronously, in the first part.
template <int ROWS, int THREADS, bool ALIGNED, typename T>
DEVICE void stage_rows(unsigned char* to, const Operands<T>& of, int tile, int thread, Part part = {}) {
  const int each = CHUNK / (int)sizeof(T), copies = (ROWS * CHUNKS + THREADS - 1) / THREADS;
  const bool in_x = tile < of.x_tiles();
  const int length = in_x ? of.I : of.P, first = (in_x ? tile : tile - of.x_tiles()) * of.K;
  if (ALIGNED) {
    const T* nowhere = of.weight;  // an aligned address, from which nothing is read
#pragma unroll
    for (int k = 0; k < copies; ++k) {
      if (!part.has_of_rows(k, copies)) continue;
      const int above = k * THREADS / CHUNKS, own = thread / CHUNKS, row = above + own;
      const int chunk = thread % CHUNKS, column = first + chunk * each;
      if (ROWS * CHUNKS % THREADS != 0 && row >= ROWS) break;
      const T* from = in_x ? of.rows[row].x : of.rows[row].h;
      const int left = from ? length - column : 0, count = left < 0 ? 0 : left < each ? left : each;
      copy_async_16(to + place(above, own, chunk), count ? from + column : nowhere, count * (int)sizeof(T),
                    part.wanted);
    }
  } else if (part.at == 0 && part.wanted) {
#pragma unroll 1
    for (int k = thread; k < ROWS * of.K; k += THREADS) {
      const int row = k / of.K, column = k % of.K;
      const T* from = in_x ? of.rows[row].x : of.rows[row].h;
      T* element = reinterpret_cast<T*>(to + place(row, column / each)) + column % each;
      *element = from && first + column < length ? from[first + column] : Narrow<T>::of(0);
    }
  }
}

// Writes zeros to whole tiles.
template <int THREADS> DEVICE void clear(unsigned char* tiles, int bytes) {
  Vector<float, 4> zeros = {{0, 0, 0, 0}};
  for (int at = threadIdx.x * CHUNK; at < bytes; at += THREADS * CHUNK) {
    store<4>(reinterpret_cast<float*>(tiles + at), zeros);
  }
}

// Writes W neighbouring elements of a row to consecutive tiles (ROWS, K), in the same layout as staged rows.
template <int ROWS, typename T, int W>
DEVICE void put(unsigned char* tiles, int row, int column, const Vector<T, W>& values) {
  const int each = CHUNK / (int)sizeof(T), tile = column / (each * CHUNKS), chunk = column / each % CHUNKS;
  T* to = reinterpret_cast<T*>(tiles + tile * ROWS * TILE_ROW + place(row, chunk));
  store<W>(to + column % each, values);
}
