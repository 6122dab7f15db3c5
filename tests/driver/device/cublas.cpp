// cublas*: the functions that CuPy and the package call.
#include "api.h"
#include "gemm.h"
#include "streams.h"

using namespace driver;

// cublasMath_t. Its higher bits are flags.
enum { TENSOR_OP_MATH = 1, TF32_MATH = 3, MODES = 15 };

struct Handle {
  int device;
  cudaStream_t stream = nullptr;
  int mode = 0;
};

// Returns whether the math mode lets float32 factors be rounded. Here they are rounded to TF32.
static bool may_round(const Handle* handle) {
  const int mode = handle->mode & MODES;
  return mode == TENSOR_OP_MATH || mode == TF32_MATH;
}

static bool is_transposed(int operation) { return operation != 0; }

static double factor(const void* pointer, bool is_double) {
  return is_double ? *static_cast<const double*>(pointer) : *static_cast<const float*>(pointer);
}

static int multiply(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, Matrix a,
                    Matrix b, const void* beta, Matrix d, int compute) {
  const Locked locked(lock);
  if (handle->device != current_device()) return INVALID_VALUE;
  if (!is_supported(compute, a.type, b.type, d.type)) return NOT_SUPPORTED;
  const bool is_double = compute == COMPUTE_64F;
  const bool is_tf32 = a.type == CUDA_R_32F && (compute == COMPUTE_32F_FAST_TF32 || may_round(handle));
  const Product product{is_transposed(op_a),      is_transposed(op_b),     m,         n,      k, a, b, d,
                        factor(alpha, is_double), factor(beta, is_double), is_double, is_tf32};
  return queue_product(product, handle->stream) ? INVALID_VALUE : SUCCESS;
}

extern "C" {

int cublasCreate_v2(Handle** out) {
  *out = new Handle{current_device()};
  return SUCCESS;
}

int cublasDestroy_v2(Handle* handle) {
  delete handle;
  return SUCCESS;
}

int cublasGetVersion_v2(Handle*, int* version) {
  *version = 130000;
  return SUCCESS;
}

int cublasSetStream_v2(Handle* handle, cudaStream_t stream) {
  handle->stream = stream;
  return SUCCESS;
}

int cublasGetStream_v2(Handle* handle, cudaStream_t* stream) {
  *stream = handle->stream;
  return SUCCESS;
}

int cublasGetMathMode(Handle* handle, int* mode) {
  *mode = handle->mode;
  return SUCCESS;
}

int cublasSetMathMode(Handle* handle, int mode) {
  handle->mode = mode;
  return SUCCESS;
}

int cublasGetPointerMode_v2(Handle*, int* mode) {
  *mode = 0;
  return SUCCESS;
}

int cublasSetPointerMode_v2(Handle*, int mode) { return mode == 0 ? SUCCESS : NOT_SUPPORTED; }

int cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, void* a,
                 cudaDataType_t type_a, int stride_a, void* b, cudaDataType_t type_b, int stride_b,
                 const void* beta, void* d, cudaDataType_t type_d, int stride_d, int compute, int) {
  return multiply(handle, op_a, op_b, m, n, k, alpha, {a, type_a, stride_a}, {b, type_b, stride_b}, beta,
                  {d, type_d, stride_d}, compute);
}

int cublasSgemm_v2(Handle* handle, int op_a, int op_b, int m, int n, int k, const float* alpha, void* a,
                   int stride_a, void* b, int stride_b, const float* beta, void* d, int stride_d) {
  return multiply(handle, op_a, op_b, m, n, k, alpha, {a, CUDA_R_32F, stride_a}, {b, CUDA_R_32F, stride_b},
                  beta, {d, CUDA_R_32F, stride_d}, COMPUTE_32F);
}

int cublasDgemm_v2(Handle* handle, int op_a, int op_b, int m, int n, int k, const double* alpha, void* a,
                   int stride_a, void* b, int stride_b, const double* beta, void* d, int stride_d) {
  return multiply(handle, op_a, op_b, m, n, k, alpha, {a, CUDA_R_64F, stride_a}, {b, CUDA_R_64F, stride_b},
                  beta, {d, CUDA_R_64F, stride_d}, COMPUTE_64F);
}
}
