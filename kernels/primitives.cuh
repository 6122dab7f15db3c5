// Every primitive that depends on the hardware: storage types, conversions, vector loads and stores.
// Nothing else in kernels/ may.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long i64;

#define DEVICE static __device__ __forceinline__

// What shared memory is on the CPU, tests/emulation says.
#ifndef CUDA_EMULATION
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#endif

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

// Rounds to nearest even, as NumPy's casts do.
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

// W neighbouring elements, moved by as few instructions as their size allows (128 bits each at most).
// The address must be a multiple of W elements.
template <typename T, int W> struct __align__(sizeof(T) * W > 16 ? 16 : sizeof(T) * W) Vector {
  T at[W];
};

template <int W, typename T> DEVICE Vector<T, W> load(const T* from) {
  return *reinterpret_cast<const Vector<T, W>*>(from);
}

template <int W, typename T> DEVICE void store(T* to, const Vector<T, W>& value) {
  *reinterpret_cast<Vector<T, W>*>(to) = value;
}
