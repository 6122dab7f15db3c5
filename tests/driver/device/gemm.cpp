#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "api.h"
#include "memory.h"
#include "streams.h"

namespace driver {

static float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

static uint16_t to_bfloat16(float value) {
  if (std::isnan(value)) return 0x7FC0;
  uint32_t wide;
  memcpy(&wide, &value, 4);
  return static_cast<uint16_t>((wide + 0x7FFF + (wide >> 16 & 1)) >> 16);
}

static float to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = (bits + 0x1000) & ~0x1FFFu;
  memcpy(&value, &bits, 4);
  return value;
}

static size_t element_size(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 0;
}

static double read(const Matrix& matrix, long long row, long long column) {
  const long long at = row + column * matrix.stride;
  switch (matrix.type) {
    case CUDA_R_64F:
      return static_cast<const double*>(matrix.data)[at];
    case CUDA_R_16F:
      return static_cast<float>(static_cast<const _Float16*>(matrix.data)[at]);
    case CUDA_R_16BF:
      return from_bfloat16(static_cast<const uint16_t*>(matrix.data)[at]);
    default:
      return static_cast<const float*>(matrix.data)[at];
  }
}

static void write(const Matrix& matrix, long long row, long long column, double value) {
  const long long at = row + column * matrix.stride;
  switch (matrix.type) {
    case CUDA_R_64F:
      static_cast<double*>(matrix.data)[at] = value;
      break;
    case CUDA_R_16F:
      static_cast<_Float16*>(matrix.data)[at] = static_cast<_Float16>(value);
      break;
    case CUDA_R_16BF:
      static_cast<uint16_t*>(matrix.data)[at] = to_bfloat16(static_cast<float>(value));
      break;
    default:
      static_cast<float*>(matrix.data)[at] = static_cast<float>(value);
  }
}

// Returns op(A) as (rows, k), row-major, so that sums run over adjacent elements.
template <class T>
static std::vector<T> packed(const Matrix& matrix, bool along_columns, long long rows, long long k,
                             bool tf32) {
  std::vector<T> out(rows * k);
  for (long long row = 0; row < rows; ++row) {
    for (long long at = 0; at < k; ++at) {
      const T value = static_cast<T>(along_columns ? read(matrix, at, row) : read(matrix, row, at));
      out[row * k + at] = tf32 ? static_cast<T>(to_tf32(static_cast<float>(value))) : value;
    }
  }
  return out;
}

template <class T> static void multiply(const Product& product) {
  const long long m = product.m, n = product.n, k = product.k;
  const std::vector<T> a = packed<T>(product.a, product.transposed_a, m, k, product.is_tf32);
  const std::vector<T> b = packed<T>(product.b, !product.transposed_b, n, k, product.is_tf32);
  for (long long column = 0; column < n; ++column) {
    for (long long row = 0; row < m; ++row) {
      const T *left = a.data() + row * k, *right = b.data() + column * k;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (long long at = 0; at < k; ++at) sum += left[at] * right[at];
      sum *= static_cast<T>(product.alpha);
      // With a beta of 0, D isn't read: it may be NaN.
      if (product.beta != 0) sum += static_cast<T>(product.beta * read(product.d, row, column));
      write(product.d, row, column, sum);
    }
  }
}

bool is_supported(int compute, cudaDataType_t a, cudaDataType_t b, cudaDataType_t d) {
  if (a != b) return false;
  switch (compute) {
    case COMPUTE_64F:
      return a == CUDA_R_64F && d == CUDA_R_64F;
    case COMPUTE_32F_FAST_TF32:
      return a == CUDA_R_32F && d == CUDA_R_32F;
    case COMPUTE_32F:
      return (a == CUDA_R_32F || a == CUDA_R_16F || a == CUDA_R_16BF) && (d == a || d == CUDA_R_32F);
    default:
      return false;
  }
}

static bool is_usable(const Matrix& matrix, long long rows, long long columns) {
  const size_t size = element_size(matrix.type);
  if (rows < 0 || columns < 0 || matrix.stride < std::max(1LL, rows)) return false;
  if (!rows || !columns) return true;
  return may_touch(current_device(), matrix.data, ((columns - 1) * matrix.stride + rows) * size);
}

static void multiply(const Product& product) {
  product.is_double ? multiply<double>(product) : multiply<float>(product);
}

// The first part fills the workspace with a mark. If the second part finds anything else there, the result is
// NaN.
static Step with_workspace(const Product& product, Workspace workspace) {
  static unsigned char last_mark = 0;
  const unsigned char mark = last_mark = (last_mark + 1) % 0xFF;
  const Work rest = [=] {
    unsigned char* const bytes = static_cast<unsigned char*>(workspace.data);
    const bool own =
        std::all_of(bytes, bytes + workspace.bytes, [=](unsigned char each) { return each == mark; });
    Product held = product;
    if (!own) held.alpha = NAN;
    multiply(held);
    memset(bytes, 0xFF, workspace.bytes);  // NaN, in case other work reads it
  };
  return {"matmul", "", [=] { memset(workspace.data, mark, workspace.bytes); }, rest};
}

cudaError_t queue_product(const Product& product, cudaStream_t stream, Workspace workspace) {
  const long long m = product.m, n = product.n, k = product.k;
  const bool usable = is_usable(product.a, product.transposed_a ? k : m, product.transposed_a ? m : k) &&
                      is_usable(product.b, product.transposed_b ? n : k, product.transposed_b ? k : n) &&
                      is_usable(product.d, m, n);
  if (!usable) return failed(cudaErrorInvalidValue);
  if (workspace.bytes) return queue(stream, with_workspace(product, workspace));
  return queue(stream, {"matmul", "", [product] { multiply(product); }});
}

}  // namespace driver
