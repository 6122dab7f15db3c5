// Column-major products D = alpha op(A) op(B) + beta D, for cuBLAS and cuBLASLt.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include "tasks.h"

namespace driver {

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };              // cublasStatus_t
enum { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_32F_FAST_TF32 = 77 };  // cublasComputeType_t

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

// Returns whether cuBLAS multiplies matrices of these types with this compute type.
bool is_supported(int compute, cudaDataType_t a, cudaDataType_t b, cudaDataType_t d);

struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

// Queues a product. Returns an error if its matrices can't be read or written. If other work writes to the
// workspace meanwhile, the result is NaN.
cudaError_t queue_product(const Product& product, cudaStream_t stream, Workspace workspace = {});

}  // namespace driver
