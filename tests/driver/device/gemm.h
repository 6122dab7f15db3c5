// D = alpha op(A) op(B) + beta D, column-major, as cuBLAS and cuBLASLt have it.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include "tasks.h"

namespace driver {

struct Matrix {
  void* data;
  cudaDataType_t type;
  long long stride;  // elements between columns
};

struct Product {
  bool transposed_a, transposed_b;
  long long m, n, k;
  Matrix a, b, d;
  double alpha, beta;
  bool is_double, is_tf32;
};

// Queues a product, and before and after it the work that spoils its workspace. Returns an error if its
// matrices can't be read or written.
cudaError_t queue_product(const Product& product, cudaStream_t stream, const Work& spoil = nullptr);

}  // namespace driver
