// Attention, each query by itself over the keys and values that it sees, in the order of
// docs/exact.md. A team has a query: a warp, or a block.
#pragma once

#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {

// Keys and values of a query: rows of `stride` floats, the first in row `slot` of `capacity`, after
// the last of which comes row 0.
struct Seen {
  const float *k, *v;
  int stride, slot, capacity, visible;
  // Position p of the keys, or of the values.
  __device__ const float* at(const float* rows, int p) const {
    const int row = slot + p < capacity ? slot + p : slot + p - capacity;
    const float* found;  // one instruction, which the compiler does not find
    asm("mad.wide.s32 %0, %1, %2, %3;"
        : "=l"(found)
        : "r"(row), "r"(stride * static_cast<int>(sizeof(float))), "l"(rows));
    return found;
  }
};

// kTeam warps that work together.
template <int kTeam>
struct Team {
  static constexpr int kSize = 32 * kTeam;
  int thread = static_cast<int>(threadIdx.x) % kSize;
  float* shared;  // (kTeam) for maxima
  __device__ void sync() const {
    if constexpr (kTeam == 1)
      __syncwarp();
    else
      __syncthreads();
  }
  __device__ float maximum_of(float x) const {
    x = maximum_of_warp(x);
    if constexpr (kTeam > 1) {
      if (thread % 32 == 0) shared[thread / 32] = x;
      __syncthreads();
      x = shared[0];
#pragma unroll
      for (int w = 1; w < kTeam; ++w) x = maximum(shared[w], x);
      __syncthreads();
    }
    return x;
  }
};

// Four threads have a key, each of them four of the sixteen lanes; kKeys keys at once, so that they
// are read side by side. `query` is padded with zeros; kVectors: dim is whole sixteens.
template <bool kLinear, bool kVectors, int kKeys>
__device__ void score(const float* query, const float* const (&keys)[kKeys], int dim, int quarter,
                      float (&scores)[kKeys]) {
  float lanes[kKeys][4] = {};
#pragma unroll 1
  for (int c = 4 * quarter; c < padded(dim); c += 16) {
    float k[kKeys][4];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      if constexpr (kVectors) {
        const float4 four = *reinterpret_cast<const float4*>(keys[i] + c);
        k[i][0] = four.x, k[i][1] = four.y, k[i][2] = four.z, k[i][3] = four.w;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) k[i][e] = c + e < dim ? keys[i][c + e] : 0.0f;
      }
    }
    const float4 q = *reinterpret_cast<const float4*>(query + c);
    const float each[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < kKeys; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        lanes[i][e] = __fmaf_rn(each[e], kLinear ? feature(k[i][e]) : k[i][e], lanes[i][e]);
  }
  // Lane i and lane i + 8, then + 4, + 2, + 1.
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
#pragma unroll
    for (int distance = 2; distance > 0; distance /= 2)
#pragma unroll
      for (float& lane : lanes[i]) lane = __fadd_rn(lane, __shfl_xor_sync(~0u, lane, distance));
    scores[i] = __fadd_rn(__fadd_rn(lanes[i][0], lanes[i][2]), __fadd_rn(lanes[i][1], lanes[i][3]));
  }
}

// out (dim): a channel for each thread, again and again.
template <int kTeam>
__device__ void weigh(const Team<kTeam>& team, const Seen& seen, const float* weights,
                      float inverse, int dim, float* out) {
  constexpr int kAhead = 16;  // values that are read side by side
#pragma unroll 1
  for (int c = team.thread; c < dim; c += Team<kTeam>::kSize) {
    float sum = 0.0f;
#pragma unroll 1
    for (int p = 0; p < seen.visible; p += kAhead) {
      float values[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        values[i] = seen.at(seen.v, p + i < seen.visible ? p + i : p)[c];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (p + i < seen.visible) sum = __fmaf_rn(weights[p + i], values[i], sum);
    }
    out[c] = __fmul_rn(sum, inverse);
  }
}

// `query` (padded(dim)) and `weights` (padded(visible)) are the team's memory; scale is 1 /
// sqrt(dim).
template <int kTeam, bool kLinear, bool kVectors>
__device__ void attend(const Team<kTeam>& team, const float* q, int dim, float scale,
                       const Seen& seen, float* query, float* weights, float* out) {
  for (int c = team.thread; c < padded(dim); c += Team<kTeam>::kSize)
    query[c] = c >= dim ? 0.0f : kLinear ? feature(q[c]) : __fmul_rn(q[c], scale);
  team.sync();
  float top = minus_infinity();
  // All lanes of a warp go round equally often: they add up together.
  constexpr int kKeys = 4, kBeside = Team<kTeam>::kSize / 4;  // a thread's at once; threads' keys
#pragma unroll 1
  for (int p = team.thread / 4; p < (seen.visible + 7) / 8 * 8; p += kKeys * kBeside) {
    const float* keys[kKeys];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int at = p + i * kBeside;
      keys[i] = seen.at(seen.k, at < seen.visible ? at : 0);
    }
    float scores[kKeys];
    score<kLinear, kVectors>(query, keys, dim, team.thread % 4, scores);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int at = p + i * kBeside;
      if (at >= seen.visible) continue;
      if (team.thread % 4 == 0) weights[at] = scores[i];
      top = maximum(scores[i], top);
    }
  }
  top = team.maximum_of(top);
  team.sync();
#pragma unroll 1
  for (int p = team.thread; p < padded(seen.visible); p += Team<kTeam>::kSize)
    if (p >= seen.visible)
      weights[p] = 0.0f;
    else if (!kLinear)
      weights[p] = exponential(__fsub_rn(weights[p], top));
  team.sync();
  // Every half warp for itself.
  float total = 0.0f;
  for (int p = team.thread % 16; p < padded(seen.visible); p += 16)
    total = __fadd_rn(total, weights[p]);
  const float inverse = __fdiv_rn(1.0f, sum_of_lanes(total));
  weigh(team, seen, weights, inverse, dim, out);
  team.sync();  // before the memory is another query's
}

// Query `item` of (rows, heads), its answer's place, and what it sees: the new position, too, whose
// key and value are stored first.
template <int kTeam>
__device__ Seen find(const Cached& a, int64_t item, const Team<kTeam>& team, const float** q,
                     float** to) {
  const int D = a.heads * a.dim;
  const int64_t row = static_cast<uint32_t>(item) / static_cast<uint32_t>(a.heads);
  const int64_t cache = item * a.capacity * a.dim;
  *q = a.qkv + row * 3 * D + (item - row * a.heads) * a.dim;
  *to = a.out + item * a.dim;
  float *k = a.keys + cache, *v = a.values + cache;
  for (int c = team.thread; c < a.dim; c += Team<kTeam>::kSize) {
    k[a.slot_new * a.dim + c] = (*q)[D + c];
    v[a.slot_new * a.dim + c] = (*q)[2 * D + c];
  }
  team.sync();
  return {k, v, a.dim, a.slot_first, a.capacity, a.visible};
}

// Pair `i` of a row of qkv: of the heads of q, then of those of k; `turns` (half) of its position.
__device__ inline void rotate_pair(float* qkv, int i, int half, const float2* turns) {
  const int c = i % half;
  float* low = qkv + (i / half * 2 * half + c);
  const float2 turn = turns[c];  // cosine, sine
  const float a = low[0], b = low[half];
  low[0] = __fmaf_rn(-b, turn.y, __fmul_rn(a, turn.x));
  low[half] = __fmaf_rn(a, turn.y, __fmul_rn(b, turn.x));
}

}  // namespace megabyte::exact_cuda
