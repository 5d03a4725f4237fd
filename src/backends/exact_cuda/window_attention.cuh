// Attention of a query by one warp, a channel in each thread: what attention.cuh does, for heads of
// kWindowDim channels that see at most kMostSeen positions, so that a warp waits for memory as
// seldom as it can.
#pragma once

#include "backends/exact_cuda/attention.cuh"

namespace megabyte::exact_cuda {

constexpr int kWindowDim = 32, kMostSeen = 64;

// Keys and values are read once and leave the cache to what the next steps read.
__device__ inline float4 read_four(const float4* from) {
  float4 x;
  asm volatile("ld.global.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(from));
  return x;
}
__device__ inline float read_one(const float* from) {
  float x;
  asm volatile("ld.global.L1::no_allocate.f32 %0, [%1];" : "=f"(x) : "l"(from));
  return x;
}

// Four lanes read a key together, that of the positions 8 i + lane / 4: each of them has four of
// the sixteen lanes of docs/exact.md.
constexpr int kKeysOfLane = kMostSeen / 8;
using ScoreLanes = float[kKeysOfLane][4];

__device__ inline void multiply_keys(const Seen& seen, const float* query, int lane,
                                     ScoreLanes& lanes) {
  const int quarter = lane % 4;
  float4 keys[2][kKeysOfLane];
#pragma unroll
  for (int i = 0; i < kKeysOfLane; ++i) {
    const int p = 8 * i + lane / 4;
    const auto* key =
        reinterpret_cast<const float4*>(seen.at(seen.k, p < seen.visible ? p : 0)) + quarter;
    keys[0][i] = read_four(key);
    keys[1][i] = read_four(key + 4);
  }
  const float4 low = reinterpret_cast<const float4*>(query)[quarter];
  const float4 high = reinterpret_cast<const float4*>(query)[quarter + 4];
#pragma unroll
  for (int i = 0; i < kKeysOfLane; ++i) {
    lanes[i][0] = __fmaf_rn(high.x, keys[1][i].x, __fmaf_rn(low.x, keys[0][i].x, 0.0f));
    lanes[i][1] = __fmaf_rn(high.y, keys[1][i].y, __fmaf_rn(low.y, keys[0][i].y, 0.0f));
    lanes[i][2] = __fmaf_rn(high.z, keys[1][i].z, __fmaf_rn(low.z, keys[0][i].z, 0.0f));
    lanes[i][3] = __fmaf_rn(high.w, keys[1][i].w, __fmaf_rn(low.w, keys[0][i].w, 0.0f));
  }
}

// Two scores end in each lane: of the returned i, and of the next.
__device__ inline int add_lanes(int lane, ScoreLanes& lanes, float (&scores)[2]) {
  // Lane i and lane i + 8: of the two threads that have them one goes on with the first half of the
  // positions, the other with the second. Then + 4 in the same way, and + 2 and + 1.
  const bool second = lane % 4 >= 2, odd = lane % 2 == 1;
#pragma unroll
  for (int i = 0; i < kKeysOfLane / 2; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float keeps = second ? lanes[i + kKeysOfLane / 2][e] : lanes[i][e];
      const float gives = second ? lanes[i][e] : lanes[i + kKeysOfLane / 2][e];
      lanes[i][e] = __fadd_rn(keeps, __shfl_xor_sync(~0u, gives, 2));
    }
#pragma unroll
  for (int i = 0; i < kKeysOfLane / 4; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float keeps = odd ? lanes[i + kKeysOfLane / 4][e] : lanes[i][e];
      const float gives = odd ? lanes[i][e] : lanes[i + kKeysOfLane / 4][e];
      lanes[i][e] = __fadd_rn(keeps, __shfl_xor_sync(~0u, gives, 1));
    }
    scores[i] = __fadd_rn(__fadd_rn(lanes[i][0], lanes[i][2]), __fadd_rn(lanes[i][1], lanes[i][3]));
  }
  return (second ? kKeysOfLane / 2 : 0) + (odd ? kKeysOfLane / 4 : 0);
}

__device__ inline void attend_window(const Seen& seen, const float* q, float scale, float* query,
                                     float* weights, float* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  query[lane] = __fmul_rn(q[lane], scale);
  __syncwarp();
  ScoreLanes lanes;
  multiply_keys(seen, query, lane, lanes);
  // Values are on their way while the weights are made, as many as registers hold: whole sixteens,
  // first those up to the ring's end. What lies past the last position is read and not used.
  const int before_end = seen.capacity - seen.slot;
  const float* ahead = seen.v + seen.slot * kWindowDim + lane;
  const float* behind = seen.v - before_end * kWindowDim + lane;
  float values[kMostSeen];
  const auto read_values = [&](int from, int to) {
#pragma unroll
    for (int p = from; p < to; ++p)
      if (p / kLanes * kLanes < seen.visible)
        values[p] = read_one((p < before_end ? ahead : behind) + p * kWindowDim);
  };
  read_values(0, kMostSeen / 2);
  float scores[2];
  const int first = add_lanes(lane, lanes, scores);
  read_values(kMostSeen / 2, kMostSeen);
  float top = minus_infinity();
  const int p[2] = {8 * first + lane / 4, 8 * first + 8 + lane / 4};
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (p[i] < seen.visible) top = maximum(scores[i], top);
  top = maximum_of_warp(top);
#pragma unroll
  for (int i = 0; i < 2; ++i)
    weights[p[i]] = p[i] < seen.visible ? exponential(__fsub_rn(scores[i], top)) : 0.0f;
  __syncwarp();
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kMostSeen / kLanes; ++i)
    if (i * kLanes < seen.visible) total = __fadd_rn(total, weights[i * kLanes + lane % kLanes]);
  const float inverse = __fdiv_rn(1.0f, sum_of_lanes(total));
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < kMostSeen; p += 4) {
    if (p >= seen.visible) break;
    const float4 four = *reinterpret_cast<const float4*>(weights + p);
    sum = __fmaf_rn(four.x, values[p], sum);
    if (p + 1 < seen.visible) sum = __fmaf_rn(four.y, values[p + 1], sum);
    if (p + 2 < seen.visible) sum = __fmaf_rn(four.z, values[p + 2], sum);
    if (p + 3 < seen.visible) sum = __fmaf_rn(four.w, values[p + 3], sum);
  }
  out[lane] = __fmul_rn(sum, inverse);
  __syncwarp();  // before the memory is another query's
}

}  // namespace megabyte::exact_cuda
