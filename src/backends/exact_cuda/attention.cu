// Attention, each query by itself over the keys and values that it sees, in the order of
// docs/exact.md. A team has a query: a warp where it sees little, else a block.
#include <algorithm>
#include <cmath>

#include "backends/cuda/vector.cuh"
#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

// Keys and values of a query: rows of `stride` floats, the first in row `slot` of `capacity`, after
// the last of which comes row 0.
struct Seen {
  const float *k, *v;
  int64_t stride, slot, capacity, visible;
  __device__ int64_t row(int64_t p) const {
    const int64_t at = slot + p;
    return (at < capacity ? at : at - capacity) * stride;
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
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
      x = maximum(__shfl_xor_sync(~0u, x, distance), x);
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

// Four threads have a key, each of them four of the sixteen lanes. `query` is padded with zeros.
template <bool kLinear, bool kVectors>
__device__ float score(const float* query, const float* key, int64_t dim, int quarter) {
  float lanes[4] = {};
  for (int64_t c = 4 * quarter; c < padded(dim); c += 16) {
    float k[4];
    if constexpr (kVectors) {
      float4 four = make_float4(0, 0, 0, 0);
      if (c < dim) four = *reinterpret_cast<const float4*>(key + c);
      k[0] = four.x, k[1] = four.y, k[2] = four.z, k[3] = four.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) k[e] = c + e < dim ? key[c + e] : 0.0f;
    }
    const float4 q = *reinterpret_cast<const float4*>(query + c);
    const float each[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int e = 0; e < 4; ++e)
      lanes[e] = __fmaf_rn(each[e], kLinear ? feature(k[e]) : k[e], lanes[e]);
  }
  // Lane i and lane i + 8, then + 4, + 2, + 1.
#pragma unroll
  for (int distance = 2; distance > 0; distance /= 2)
#pragma unroll
    for (float& lane : lanes) lane = __fadd_rn(lane, __shfl_xor_sync(~0u, lane, distance));
  return __fadd_rn(__fadd_rn(lanes[0], lanes[2]), __fadd_rn(lanes[1], lanes[3]));
}

// out (dim), from channel `base` on: kEach channels a thread.
template <int kTeam, int kEach>
__device__ void weigh(const Team<kTeam>& team, const Seen& seen, const float* weights,
                      float inverse, int64_t base, int64_t dim, float* out) {
  float sums[kEach] = {};
  const int64_t first = base + team.thread;
#pragma unroll 8
  for (int64_t p = 0; p < seen.visible; ++p) {
    const float weight = weights[p];
    const float* value = seen.v + seen.row(p);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t c = first + e * Team<kTeam>::kSize;
      if (c < dim) sums[e] = __fmaf_rn(weight, value[c], sums[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int64_t c = first + e * Team<kTeam>::kSize;
    if (c < dim) out[c] = __fmul_rn(sums[e], inverse);
  }
}

// `query` (padded(dim)) and `weights` (padded(visible)) are the team's memory; scale is 1 /
// sqrt(dim).
template <int kTeam, bool kLinear, bool kVectors>
__device__ void attend(const Team<kTeam>& team, const float* q, int64_t dim, float scale,
                       const Seen& seen, float* query, float* weights, float* out) {
  for (int64_t c = team.thread; c < padded(dim); c += Team<kTeam>::kSize)
    query[c] = c >= dim ? 0.0f : kLinear ? feature(q[c]) : __fmul_rn(q[c], scale);
  team.sync();
  float top = __int_as_float(static_cast<int>(0xff800000u));  // -infinity
  // All lanes of a warp go round equally often: they add up together.
  for (int64_t p = team.thread / 4; p < (seen.visible + 7) / 8 * 8; p += Team<kTeam>::kSize / 4) {
    const bool real = p < seen.visible;
    const float s =
        score<kLinear, kVectors>(query, seen.k + seen.row(real ? p : 0), dim, team.thread % 4);
    if (!real) continue;
    if (team.thread % 4 == 0) weights[p] = s;
    top = maximum(s, top);
  }
  top = team.maximum_of(top);
  team.sync();
  for (int64_t p = team.thread; p < padded(seen.visible); p += Team<kTeam>::kSize)
    if (p >= seen.visible)
      weights[p] = 0.0f;
    else if (!kLinear)
      weights[p] = exponential(__fsub_rn(weights[p], top));
  team.sync();
  // Every half warp for itself.
  float total = 0.0f;
  for (int64_t p = team.thread % 16; p < padded(seen.visible); p += 16)
    total = __fadd_rn(total, weights[p]);
  const float inverse = __fdiv_rn(1.0f, sum_of_lanes(total));
  constexpr int64_t kSize = Team<kTeam>::kSize;
  for (int64_t base = 0; base < dim; base += 4 * kSize)
    if (dim - base <= kSize)
      weigh<kTeam, 1>(team, seen, weights, inverse, base, dim, out);
    else if (dim - base <= 2 * kSize)
      weigh<kTeam, 2>(team, seen, weights, inverse, base, dim, out);
    else
      weigh<kTeam, 4>(team, seen, weights, inverse, base, dim, out);
  team.sync();  // before the memory is another query's
}

// --- which query sees what

// Of one new position, whose key and value are stored first.
struct Cached {
  const float* qkv;
  float *keys, *values, *out;
  int64_t heads, dim, capacity, slot_new, slot_first, visible;
  template <int kTeam>
  __device__ Seen find(int64_t item, const Team<kTeam>& team, const float** q, float** to) const {
    const int64_t D = heads * dim;
    *q = qkv + item / heads * 3 * D + item % heads * dim;
    *to = out + item * dim;
    float *k = keys + item * capacity * dim, *v = values + item * capacity * dim;
    for (int64_t c = team.thread; c < dim; c += Team<kTeam>::kSize) {
      k[slot_new * dim + c] = (*q)[D + c];
      v[slot_new * dim + c] = (*q)[2 * D + c];
    }
    team.sync();
    return {k, v, dim, slot_first, capacity, visible};
  }
};

// Of whole sequences.
struct Whole {
  const float* qkv;
  float* out;
  int64_t heads, dim, length, queries, row, cross;
  template <int kTeam>
  __device__ Seen find(int64_t item, const Team<kTeam>&, const float** q, float** to) const {
    const int64_t D = heads * dim, i = item % queries, t = length - queries + i;
    const int64_t s = item / queries / heads, h = item / queries % heads;
    const int64_t from = max(s * length / row * row, s * length - cross);
    *q = qkv + (s * length + t) * 3 * D + h * dim;
    *to = out + (s * queries + i) * D + h * dim;
    const float* first = qkv + from * 3 * D + h * dim;
    const int64_t visible = s * length + t - from + 1;
    return {first + D, first + 2 * D, 3 * D, 0, visible, visible};
  }
};

template <class Queries>
struct Attention {
  Queries queries;
  int64_t items, dim;
  int64_t most;  // that a query sees
  float scale;
  float* spilled;  // (teams, padded(most)) where the weights do not fit the shared memory
};

template <int kTeam, bool kLinear, bool kVectors, class Queries>
__global__ void __launch_bounds__(kThreads) attention_kernel(const Attention<Queries> a) {
  extern __shared__ float4 memory[];
  __shared__ float maxima[kWarps];
  constexpr int kTeams = kWarps / kTeam;
  const int own = static_cast<int>(threadIdx.x) / (32 * kTeam);
  const Team<kTeam> team{.shared = maxima};
  const int64_t number = int64_t{blockIdx.x} * kTeams + own;
  const int64_t size = padded(a.dim) + (a.spilled != nullptr ? 0 : padded(a.most));
  float* query = reinterpret_cast<float*>(memory) + own * size;
  float* weights =
      a.spilled != nullptr ? a.spilled + number * padded(a.most) : query + padded(a.dim);
  for (int64_t item = number; item < a.items; item += int64_t{gridDim.x} * kTeams) {
    const float* q;
    float* out;
    const Seen seen = a.queries.find(item, team, &q, &out);
    attend<kTeam, kLinear, kVectors>(team, q, a.dim, a.scale, seen, query, weights, out);
  }
}

template <int kTeam, bool kLinear, bool kVectors, class Queries>
void launch(cuda::Context& context, Attention<Queries> a) {
  constexpr int64_t kTeams = kWarps / kTeam, kMostBlocks = int64_t{1} << 30;
  const auto kernel = attention_kernel<kTeam, kLinear, kVectors, Queries>;
  int64_t blocks = std::min(kMostBlocks, cuda::ceil_div(a.items, kTeams));
  const auto bytes = [&](int64_t weights) {
    return kTeams * (padded(a.dim) + weights) * static_cast<int64_t>(sizeof(float));
  };
  int64_t shared = bytes(padded(a.most));
  if (shared > context.shared_memory() - 64) {
    blocks = std::min<int64_t>(blocks, 4 * context.multiprocessors());
    a.spilled = context.scratch_of<float>(blocks * kTeams * padded(a.most));
    shared = bytes(0);
  }
  if (shared > (48 << 10))
    cuda::check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared)),
                     "attention");
  kernel<<<cuda::grid_of(blocks), kThreads, static_cast<size_t>(shared), context.stream()>>>(a);
  cuda::check_launch("attention");
}

template <class Queries>
void run(cuda::Context& context, const Attention<Queries>& a, bool linear, bool vectors) {
  const auto with_team = [&]<bool kLinear, bool kVectors>() {
    if (a.most <= 64)
      launch<1, kLinear, kVectors>(context, a);
    else
      launch<kWarps, kLinear, kVectors>(context, a);
  };
  if (linear && vectors)
    with_team.template operator()<true, true>();
  else if (linear)
    with_team.template operator()<true, false>();
  else if (vectors)
    with_team.template operator()<false, true>();
  else
    with_team.template operator()<false, false>();
}

// The scale is a float's: sqrt and division are rounded each.
float scale_of(int64_t head_dim) { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

// --- rotary positions

__global__ void __launch_bounds__(kThreads)
    rotary_kernel(float* qkv, int64_t pairs, int64_t heads, int64_t half, int64_t length,
                  const float2* turns) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= pairs) return;
  // The heads of q, then those of k.
  const int64_t i = at % half, head = at / half % (2 * heads), row = at / half / (2 * heads);
  float* low = qkv + row * 6 * heads * half + head * 2 * half + i;
  const float2 turn = turns[row % length * half + i];  // cosine, sine
  const float a = low[0], b = low[half];
  low[0] = __fmaf_rn(-b, turn.y, __fmul_rn(a, turn.x));
  low[half] = __fmaf_rn(a, turn.y, __fmul_rn(b, turn.x));
}

}  // namespace

void rotate(cuda::Context& context, float* qkv, int64_t rows, int64_t heads, int64_t head_dim,
            int64_t length, const float2* turns) {
  const int64_t pairs = rows * heads * head_dim;
  rotary_kernel<<<cuda::grid_of(cuda::ceil_div(pairs, kThreads)), kThreads, 0, context.stream()>>>(
      qkv, pairs, heads, head_dim / 2, length, turns);
  cuda::check_launch("rotary");
}

void attend(cuda::Context& context, const AttentionShape& shape, const float* qkv, float* out) {
  const int64_t d = shape.head_dim, row = shape.row_sequences * shape.length;
  const Attention<Whole> a{
      .queries = {qkv, out, shape.heads, d, shape.length, shape.queries, row, shape.cross},
      .items = shape.sequences * shape.heads * shape.queries,
      .dim = d,
      .most = std::min(row, shape.length + shape.cross),
      .scale = scale_of(d),
      .spilled = nullptr};
  run(context, a, shape.linear, d % 4 == 0);
}

void attend_cached(cuda::Context& context, const DecodeShape& shape, const float* qkv, float* keys,
                   float* values, float* out) {
  const int64_t d = shape.head_dim, capacity = shape.capacity;
  const int64_t visible = shape.position - shape.first + 1;
  const Attention<Cached> a{.queries = {qkv, keys, values, out, shape.heads, d, capacity,
                                        shape.position % capacity, shape.first % capacity, visible},
                            .items = shape.batch * shape.heads,
                            .dim = d,
                            .most = visible,
                            .scale = scale_of(d),
                            .spilled = nullptr};
  run(context, a, shape.linear, d % 4 == 0);
}

}  // namespace megabyte::exact_cuda
