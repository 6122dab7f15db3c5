// All primitives that depend on the hardware: storage types, conversions, vector loads and stores.
// Nothing else in kernels/ may depend on it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long i64;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__

// On the CPU, tests/emulation defines shared memory.
#ifndef CUDA_EMULATION
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#endif

template <typename A, typename B> struct IsSame {
  static const bool value = false;
};
template <typename A> struct IsSame<A, A> {
  static const bool value = true;
};

// The dtype of the arithmetic, and of c: float for the 16-bit storage types, else the storage type itself.
template <typename T> struct Arithmetic {
  typedef float type;
};
template <> struct Arithmetic<double> {
  typedef double type;
};

DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }
DEVICE float widen(__half x) { return __half2float(x); }
DEVICE float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest even, like NumPy's casts.
template <typename T> struct Narrow;
template <> struct Narrow<float> {
  DEVICE float of(float x) { return x; }
};
template <> struct Narrow<double> {
  DEVICE double of(double x) { return x; }
};
template <> struct Narrow<__half> {
  DEVICE __half of(float x) { return __float2half_rn(x); }
};
template <> struct Narrow<__nv_bfloat16> {
  DEVICE __nv_bfloat16 of(float x) { return __float2bfloat16_rn(x); }
};

// a * b + c, rounded once. If it isn't written out, the compiler may fuse it in some instances and not in
// others.
DEVICE float multiply_and_add(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double multiply_and_add(double a, double b, double c) { return fma(a, b, c); }

// A number from its bits, which can be a template argument.
DEVICE double of_bits(u64 bits) { return __longlong_as_double((i64)bits); }

// a + b. If a is a product, it is rounded first.
DEVICE float add_rounded(float a, float b) { return __fadd_rn(a, b); }
DEVICE double add_rounded(double a, double b) { return __dadd_rn(a, b); }

// W neighbouring elements, moved by as few instructions as their size allows (at most 128 bits each).
// The address must be a multiple of W elements.
template <typename T, int W> struct __align__(sizeof(T) * W > 16 ? 16 : sizeof(T) * W) Vector {
  T at[W];
};

template <int W, typename T> DEVICE Vector<T, W> load(const T* from) {
  return *reinterpret_cast<const Vector<T, W>*>(from);
}

template <int W, typename T> DEVICE void store(T* to, const Vector<T, W>& value) {
  if constexpr (sizeof(T) == 2 && W == 2) {  // as a word, or it would be split where two branches meet
    *reinterpret_cast<unsigned*>(to) = *reinterpret_cast<const unsigned*>(&value);
  } else {
    *reinterpret_cast<Vector<T, W>*>(to) = value;
  }
}

// A matrix with contiguous rows.
template <typename T> struct Matrix {
  T* at;       // null only where a kernel allows it
  i64 stride;  // elements from row to row; 0 if one row serves all
};

// The rest copies in the background, multiplies on tensor cores, and approximates. Functions with a
// static_assert are templates, so that it fails only where they are used.
#ifndef CUDA_EMULATION

// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED_ARRAY(type, name)                    \
  extern __shared__ __align__(16) unsigned char dynamic_[]; \
  type* name = reinterpret_cast<type*>(dynamic_)

// Copies the first `bytes` of 16 aligned bytes and fills the rest with zeros. If `bytes` is 0, nothing is
// read. If it isn't `wanted`, nothing happens.
template <int NEEDED = 800>
DEVICE void copy_async_16(void* shared, const void* global, int bytes, bool wanted = true) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "cp.async needs sm_80");
  const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2; }" ::"r"(to),
      "l"(global), "r"(bytes), "r"((int)wanted)
      : "memory");
}

// Ends a group of the thread's copies.
template <int NEEDED = 800> DEVICE void copy_async_commit() {
  static_assert(__CUDA_ARCH__ >= NEEDED, "cp.async needs sm_80");
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most N of the thread's latest groups are in flight. Each thread waits for its own copies.
template <int N, int NEEDED = 800> DEVICE void copy_async_wait() {
  static_assert(__CUDA_ARCH__ >= NEEDED, "cp.async needs sm_80");
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Loads four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix l / 8. From
// each matrix it gets elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4.
template <int NEEDED = 800> DEVICE void load_matrix_x4(unsigned (&to)[4], const void* row) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "used with mma of sm_80");
  const unsigned from = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// d (16 x 8) += a (16 x 16) b (16 x 8), of __half or __nv_bfloat16, summed in float32.
template <typename T, int NEEDED = 800>
DEVICE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "mma.m16n8k16 needs sm_80");
#define MMA_M16N8K16(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (IsSame<T, __half>::value) {
    MMA_M16N8K16("f16");
  } else {
    static_assert(IsSame<T, __nv_bfloat16>::value, "mma.m16n8k16 multiplies 16-bit types");
    MMA_M16N8K16("bf16");
  }
#undef MMA_M16N8K16
}

// d (16 x 8) += a (16 x 8) b (8 x 8), of TF32 (the upper 19 bits of float32), summed in float32.
template <int NEEDED = 800>
DEVICE void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "mma of TF32 needs sm_80");
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The bits of the nearest TF32 number; ties round away from zero. NaN stays NaN, unless only its lower 13
// bits tell it from infinity. Arithmetic never makes such a NaN.
template <int NEEDED = 800> DEVICE unsigned to_tf32(float x) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "TF32 needs sm_80");
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// One access of a word that other blocks may be writing.
template <int NEEDED = 700> DEVICE unsigned long long load_relaxed(const unsigned long long* from) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "ld.relaxed needs sm_70");
  unsigned long long value;
  asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
template <int NEEDED = 700> DEVICE void store_relaxed(unsigned long long* to, unsigned long long value) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "st.relaxed needs sm_70");
  asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

// Counts an arrival, and returns how many came before. The last of `count` sets the word back to 0. What a
// thread did before it arrived is visible to threads that arrive later.
template <int NEEDED = 700> DEVICE unsigned arrive(unsigned* at, unsigned count) {
  static_assert(__CUDA_ARCH__ >= NEEDED, "atom.acq_rel needs sm_70");
  unsigned before;
  asm volatile("atom.inc.acq_rel.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(count - 1) : "memory");
  return before;
}

// exp(x) and 1 / x by the hardware's approximations. exp(x) is within 2^-21 of the exact value for |x| up to
// 1, and 1 / x for x in [1, 2]. Beyond that, the error of exp(x) grows with |x|.
DEVICE float exponential_approx(float x) { return __expf(x); }
DEVICE float reciprocal_approx(float x) { return __fdividef(1.0f, x); }

#endif
