// The functions of docs/exact.md, section 2, and its sums of sixteen lanes. Every operation is
// written as the intrinsic that rounds once, so that no option of the compiler changes a bit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backends/exact/kernels.h"

namespace megabyte::exact_cuda {

using exact::Act;

constexpr float kRounder = 0x1.8p23f;  // x + this is x rounded to a whole number, in the low bits

__device__ inline float maximum(float newer, float top) { return newer > top ? newer : top; }

__device__ inline float minus_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }

__device__ inline float maximum_of_warp(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    x = maximum(__shfl_xor_sync(~0u, x, distance), x);
  return x;
}

__device__ inline float exponential(float x) {
  x = x > -86.0f ? x : -86.0f;
  x = 88.0f > x ? x : 88.0f;
  const float t = __fmaf_rn(x, 0x1.715476p+0f, kRounder);  // log2(e)
  const float n = __fsub_rn(t, kRounder);
  float r = __fmaf_rn(-n, 0x1.62e430p-1f, x);  // ln(2) in two parts
  r = __fmaf_rn(-n, -0x1.05c610p-29f, r);
  float p = 0x1.6a2318p-10f;
  p = __fmaf_rn(p, r, 0x1.123a8ep-7f);
  p = __fmaf_rn(p, r, 0x1.5558f6p-5f);
  p = __fmaf_rn(p, r, 0x1.555490p-3f);
  p = __fmaf_rn(p, r, 0x1.fffffcp-2f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
}

// Of kCount numbers side by side: none waits for another's branches.
template <int kCount>
__device__ inline void gelu(float (&x)[kCount]) {
  float below[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float u2 =
        __fmul_rn(x[i], __fmaf_rn(__fmul_rn(x[i], x[i]), 0x1.2444f2p-4f, 0x1.988454p+0f));
    below[i] = __fadd_rn(1.0f, exponential(__fsub_rn(0.0f, u2)));
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = __fdiv_rn(x[i], below[i]);
}

// elu(x) + 1
__device__ inline float feature(float x) { return x > 0.0f ? __fadd_rn(x, 1.0f) : exponential(x); }

template <int kCount>
__device__ inline void activate(Act act, float (&x)[kCount]) {
  if (act == Act::gelu) return gelu(x);
  if (act == Act::none) return;
#pragma unroll
  for (float& each : x) each = each > 0.0f ? each : 0.0f;
}

// The sixteen accumulators, one in each lane of half a warp, added pairwise: lane i + lane i + 8,
// then + 4, + 2, + 1. Both sides of each pair add the same two numbers, so that every lane ends
// with the sum. All lanes of the warp take part.
__device__ inline float sum_of_lanes(float x) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2)
    x = __fadd_rn(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}

// 1 + trunc(2^22 e^(logit - top)): a symbol's frequency.
__device__ inline uint32_t frequency(float logit, float top) {
  return 1u + static_cast<uint32_t>(
                  __float2int_rz(__fmul_rn(exponential(__fsub_rn(logit, top)), 0x1p22f)));
}

}  // namespace megabyte::exact_cuda
