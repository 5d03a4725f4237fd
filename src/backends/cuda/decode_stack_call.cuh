// What the kernels of decode_stack.cu share: what they are asked to do, and small things.
#pragma once

#include <algorithm>
#include <cmath>

#include "backends/cuda/activation.cuh"
#include "backends/cuda/attention_fragments.cuh"
#include "backends/cuda/copies.cuh"
#include "backends/cuda/overlap.cuh"

namespace megabyte::cuda::stack {

// Of a block's threads, and one more warp that copies.
inline constexpr int kBlocks = 128, kWarps = 8, kThreads = 32 * kWarps;
inline constexpr int kHead = 64, kShortWindow = 8, kMostLayers = 32, kMostRows = 16;

struct Layer {
  const float *norm1_weight, *norm1_bias, *qkv_bias, *out_bias;
  const float *norm2_weight, *norm2_bias, *up_bias, *down_bias;
  const bf16 *qkv, *out, *up, *down;
  bf16 *keys, *values;
};

struct Call {
  Layer layers[kMostLayers];
  int count, batch, position, capacity;
  Activation activation;
  float eps;
  const float* x;
  const bf16* delta;
  const float *norm_weight, *norm_bias;
  float* sum;
  bf16* y;
  void* exchange;  // memory through which the blocks tell each other vectors
};

// How the matrices of a stage of width D are dealt: a block has kQkv, kOut, kUp groups of 8
// neighbouring rows of each, a warp kSlice elements of each row (of `down`, of each quarter).
template <int D_>
struct Deal {
  static constexpr int D = D_;
  static constexpr int kSlice = D / kWarps;
  static constexpr int kChunks = kSlice / 32;  // steps of a product
  static constexpr int kOut = D / kBlocks / 8, kQkv = 3 * kOut, kUp = 4 * kOut;
  static constexpr int kHeads = D / kHead;
  // A slot of the ring holds 8 rows of D elements, or kKeys keys or values. Odd multiples of 64
  // bytes keep the banks apart.
  static constexpr int kPitch = 2 * D + 64, kSlotBytes = 8 * kPitch, kKeys = D / 8;
};

__device__ inline float2 unpack(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}
__device__ inline void unpack8(uint4 from, float (&to)[8]) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(words[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}
__device__ inline float dot(const float (&a)[8], const float (&b)[8]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}
// Sums over the eight lanes of a group, of one or of all of a warp's at once, and over the four
// groups of a warp.
__device__ inline float eight_sum(float x) {
  const unsigned mask = 0xFFU << (threadIdx.x % 32 / 8 * 8);
  x += __shfl_xor_sync(mask, x, 1);
  x += __shfl_xor_sync(mask, x, 2);
  return x + __shfl_xor_sync(mask, x, 4);
}
__device__ inline float octet_sum(float x) {
  x = quad_sum(x);
  return x + __shfl_xor_sync(~0U, x, 4);
}
__device__ inline float groups_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 8);
  return x + __shfl_xor_sync(~0U, x, 16);
}
__device__ inline float activate_as(Activation activation, float x) {
  if (activation == Activation::gelu) return activate<Activation::gelu, bf16>(x);
  return activation == Activation::relu ? activate<Activation::relu, bf16>(x) : x;
}

// Scores are powers of two: log2(e) / sqrt(kHead).
inline constexpr float kScoreScale = 1.4426950408889634F / 8;

// What a warp's four groups of lanes attended to (of their scores the top, their weights' sum, and
// 8 elements a lane of the values that these weigh) as one.
__device__ inline void merge_groups(float& top, float& total, float (&sums)[8]) {
  float largest = fmaxf(top, __shfl_xor_sync(~0U, top, 8));
  largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, 16));
  const float fade = largest == -INFINITY ? 0 : power_of_two(top - largest);
  top = largest;
  total = groups_sum(total * fade);
#pragma unroll
  for (float& sum : sums) sum = groups_sum(sum * fade);
}
// For other warps: the elements, then top and total.
__device__ inline void store_answer(float* answer, float top, float total, const float (&sums)[8]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane >= 8) return;
#pragma unroll
  for (int e = 0; e < 8; e += 4)
    *reinterpret_cast<float4*>(answer + 8 * lane + e) =
        float4{sums[e], sums[e + 1], sums[e + 2], sums[e + 3]};
  if (lane == 0) *reinterpret_cast<float2*>(answer + kHead) = {top, total};
}

// Loads that stay where they are written, long before their use: the compiler would bring them
// near to it. Of weights, which do not change while the kernel runs, and of cached keys and values.
__device__ inline float4 weights_early(const float* p) {
  float4 v;
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}
__device__ inline float2 pair_early(const float* p) {
  float2 v;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p));
  return v;
}
__device__ inline uint4 keys_early(const bf16* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 values_early(const bf16* p) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}

// Named barriers of the computing warps: all wait, or the first waits for the others.
inline constexpr int kAll = 1, kEven = 2, kOdd = 3, kParts = 4, kWithSweeper = 2;
template <int kBarrier, int kCount = kThreads>
__device__ void wait_for_warps() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kCount) : "memory");
}
template <int kBarrier>
__device__ void tell_first_warp() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

}  // namespace megabyte::cuda::stack
