// Vectors of numbers in registers: 16-byte accesses to memory in any element type, arithmetic in
// float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/error.h"
#include "base/tensor.h"

namespace megabyte::cuda {

template <int N>
struct Floats {
  float v[N];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ float operator[](int i) const { return v[i]; }
};

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ T from_float(float x) {
  if constexpr (sizeof(T) == 2)
    return __float2bfloat16_rn(x);
  else
    return x;
}

// N neighbouring elements; the address is a multiple of their size (at most 16 bytes).
template <int N, class T>
__device__ Floats<N> load(const T* p) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(p);
  Floats<N> x;
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(pack.v[i]);
  return x;
}

template <int N, class T>
__device__ void store(T* p, const Floats<N>& x) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.v[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

template <class F>
__device__ float warp_reduce(float x, F f) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = f(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
__device__ inline float warp_sum(float x) {
  return warp_reduce(x, [](float a, float b) { return a + b; });
}
__device__ inline float warp_max(float x) {
  return warp_reduce(x, [](float a, float b) { return fmaxf(a, b); });
}

// --- on the host

// The elements of a tensor, as the device's type; none of an optional tensor that is not there.
template <class T>
T* device(const Tensor& t) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    check(!t || t.dtype == DType::bf16, "tensor accessed as another element type");
    return static_cast<T*>(t.data);
  } else {
    return t ? t.as<T>() : nullptr;
  }
}

// Calls f with a zero of the element type, f32 or bf16.
template <class F>
void with_float(DType dtype, F&& f) {
  check(dtype == DType::f32 || dtype == DType::bf16, "the cuda backend computes in f32 or bf16");
  if (dtype == DType::f32)
    f(float{});
  else
    f(__nv_bfloat16{});
}

// Are these addresses multiples of 16?
template <class... T>
bool aligned16(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned grid_of(int64_t blocks) { return static_cast<unsigned>(blocks); }

}  // namespace megabyte::cuda
