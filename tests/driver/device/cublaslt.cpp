// cublasLt*: the functions that the package calls through nvmath-python.
#include <cstdint>
#include <cstring>
#include <map>
#include <set>

#include "api.h"
#include "gemm.h"
#include "memory.h"
#include "streams.h"

using namespace driver;

enum { TRANSA = 3, TRANSB = 4 };  // cublasLtMatmulDescAttributes_t
// cublasLtMatmulPreferenceAttributes_t
enum { MAX_WORKSPACE = 1, ALIGNMENT_A = 5, ALIGNMENT_B = 6, ALIGNMENT_C = 7, ALIGNMENT_D = 8 };

struct Description {
  int compute, scale, transposed_a = 0, transposed_b = 0;
};

struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t stride;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

// cublasLtMatmulAlgo_t: 64 opaque bytes. Here they hold what the algorithm was chosen for.
struct Algorithm {
  uint64_t magic;
  uint64_t workspace;
  uint32_t alignment[4];
  Description description;
  uint32_t unused[4];
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t has 64 bytes");

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

static const uint64_t MAGIC = 0x6c61736b6f6f6b21;
static const uint64_t WORKSPACE = 1024;
static const uint32_t WORKSPACE_ALIGNMENT = 256;

static bool is_aligned(const void* pointer, uint32_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

static bool has_shape(const Layout* layout, bool transposed, uint64_t rows, uint64_t columns) {
  return transposed ? layout->rows == columns && layout->columns == rows
                    : layout->rows == rows && layout->columns == columns;
}

// Returns the k of D (m, n) = op(A) (m, k) op(B) (k, n).
static uint64_t inner_size(const Description* description, const Layout* a) {
  return description->transposed_a ? a->rows : a->columns;
}

static int check_layouts(const Description* description, const Layout* a, const Layout* b, const Layout* c,
                         const Layout* d) {
  const uint64_t m = d->rows, n = d->columns, k = inner_size(description, a);
  const bool shapes_fit = has_shape(a, description->transposed_a, m, k) &&
                          has_shape(b, description->transposed_b, k, n) && has_shape(c, false, m, n);
  if (!shapes_fit) return INVALID_VALUE;
  const int scale = description->compute == COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
  const bool types_fit = is_supported(description->compute, a->type, b->type, d->type) &&
                         c->type == d->type && description->scale == scale;
  return types_fit && m && n && k ? SUCCESS : NOT_SUPPORTED;
}

// Returns whether an algorithm was chosen for such operands and for such a workspace.
static bool suits(const Algorithm& algorithm, const Description& description,
                  const void* const (&operands)[4], const void* workspace, size_t workspace_bytes) {
  if (algorithm.magic != MAGIC) return false;
  if (memcmp(&algorithm.description, &description, sizeof description) != 0) return false;
  for (int k = 0; k < 4; ++k) {
    if (!is_aligned(operands[k], algorithm.alignment[k])) return false;
  }
  if (workspace_bytes < algorithm.workspace || !is_aligned(workspace, WORKSPACE_ALIGNMENT)) return false;
  return !workspace_bytes || may_touch(current_device(), workspace, workspace_bytes);
}

extern "C" {

size_t cublasLtGetVersion() { return 130000; }

int cublasLtCreate(void** out) {
  *out = new int(current_device());
  return SUCCESS;
}

int cublasLtDestroy(void* handle) {
  delete static_cast<int*>(handle);
  return SUCCESS;
}

int cublasLtMatmulDescCreate(Description** out, int compute, int scale) {
  *out = new Description{compute, scale};
  return SUCCESS;
}

int cublasLtMatmulDescDestroy(Description* description) {
  delete description;
  return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(Description* description, int name, const void* value, size_t bytes) {
  if (bytes != sizeof(int) || (name != TRANSA && name != TRANSB)) return INVALID_VALUE;
  memcpy(name == TRANSA ? &description->transposed_a : &description->transposed_b, value, bytes);
  return SUCCESS;
}

int cublasLtMatrixLayoutCreate(Layout** out, cudaDataType_t type, uint64_t rows, uint64_t columns,
                               int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return INVALID_VALUE;
  *out = new Layout{type, rows, columns, stride};
  return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(Layout* layout) {
  delete layout;
  return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(Preference** out) {
  *out = new Preference;
  return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(Preference* preference) {
  delete preference;
  return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int name, const void* value, size_t bytes) {
  if (name == MAX_WORKSPACE && bytes == sizeof(uint64_t)) {
    memcpy(&preference->workspace, value, bytes);
  } else if (name >= ALIGNMENT_A && name <= ALIGNMENT_D && bytes == sizeof(uint32_t)) {
    memcpy(&preference->alignment[name - ALIGNMENT_A], value, bytes);
  } else {
    return INVALID_VALUE;
  }
  return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void*, Description* description, Layout* a, Layout* b, Layout* c,
                                   Layout* d, Preference* preference, int wanted, HeuristicResult* out,
                                   int* found) {
  *found = 0;
  if (wanted < 1) return INVALID_VALUE;
  if (const int status = check_layouts(description, a, b, c, d)) return status;
  *out = HeuristicResult{};
  out->workspace = preference->workspace >= WORKSPACE ? WORKSPACE : 0;
  out->algorithm.magic = MAGIC;
  out->algorithm.workspace = out->workspace;
  memcpy(out->algorithm.alignment, preference->alignment, sizeof preference->alignment);
  out->algorithm.description = *description;
  *found = 1;
  return SUCCESS;
}

int cublasLtMatmul(int* handle, Description* description, const void* alpha, void* a, Layout* layout_a,
                   void* b, Layout* layout_b, const void* beta, void* c, Layout* layout_c, void* d,
                   Layout* layout_d, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                   cudaStream_t stream) {
  const Locked locked(lock);
  if (is_broken() || *handle != current_device() || !algorithm) return INVALID_VALUE;
  if (const int status = check_layouts(description, layout_a, layout_b, layout_c, layout_d)) return status;
  if (!suits(*algorithm, *description, {a, b, c, d}, workspace, workspace_bytes)) return INVALID_VALUE;
  if (c != d || layout_c->stride != layout_d->stride) return NOT_SUPPORTED;
  const bool is_double = description->compute == COMPUTE_64F;
  const auto factor = [=](const void* at) {
    return is_double ? *static_cast<const double*>(at) : *static_cast<const float*>(at);
  };
  const Product product{description->transposed_a != 0,
                        description->transposed_b != 0,
                        static_cast<long long>(layout_d->rows),
                        static_cast<long long>(layout_d->columns),
                        static_cast<long long>(inner_size(description, layout_a)),
                        {a, layout_a->type, layout_a->stride},
                        {b, layout_b->type, layout_b->stride},
                        {d, layout_d->type, layout_d->stride},
                        factor(alpha),
                        factor(beta),
                        is_double,
                        description->compute == COMPUTE_32F_FAST_TF32};
  return queue_product(product, stream, {workspace, workspace_bytes}) ? INVALID_VALUE : SUCCESS;
}
}
