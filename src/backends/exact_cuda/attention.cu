// Attention's kernels (attention.cuh), and which query sees what.
#include "backends/exact_cuda/attention.cuh"

#include <algorithm>
#include <cmath>

#include "backends/cuda/vector.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

// Of whole sequences.
struct Whole {
  const float* qkv;
  float* out;
  int64_t heads, dim, length, queries, row, cross;
};
template <int kTeam>
__device__ Seen find(const Whole& a, int64_t item, const Team<kTeam>&, const float** q,
                     float** to) {
  const int64_t D = a.heads * a.dim, i = item % a.queries, t = a.length - a.queries + i;
  const int64_t s = item / a.queries / a.heads, h = item / a.queries % a.heads;
  const int64_t from = max(s * a.length / a.row * a.row, s * a.length - a.cross);
  *q = a.qkv + (s * a.length + t) * 3 * D + h * a.dim;
  *to = a.out + (s * a.queries + i) * D + h * a.dim;
  const float* first = a.qkv + from * 3 * D + h * a.dim;
  const int64_t visible = s * a.length + t - from + 1;
  return {first + D,
          first + 2 * D,
          static_cast<int>(3 * D),
          0,
          static_cast<int>(visible),
          static_cast<int>(visible)};
}

template <class Queries>
struct Attention {
  Queries queries;
  int64_t items, dim;
  int64_t most;  // that a query sees
  float scale;
  float* spilled;  // (teams, padded(most)) where the weights do not fit the shared memory
};

template <int kTeam, bool kLinear, bool kVectors, class Queries>
__global__ void __launch_bounds__(kThreads, 6) attention_kernel(const Attention<Queries> a) {
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
    const Seen seen = find(a.queries, item, team, &q, &out);
    attend<kTeam, kLinear, kVectors>(team, q, static_cast<int>(a.dim), a.scale, seen, query,
                                     weights, out);
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
    // A warp waits for nobody; but where queries are few and see much, more have to help.
    const bool many = a.items >= int64_t{8} * context.multiprocessors();
    if (a.most <= 64 || (many && a.most <= 1024))
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

// --- rotary positions

__global__ void __launch_bounds__(kThreads)
    rotary_kernel(float* qkv, int64_t pairs, int64_t heads, int64_t half, int64_t length,
                  const float2* turns) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= pairs) return;
  const int64_t row = at / (2 * heads * half);
  rotate_pair(qkv + row * 6 * heads * half, static_cast<int>(at - row * 2 * heads * half),
              static_cast<int>(half), turns + row % length * half);
}

}  // namespace

float scale_of(int64_t head_dim) { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

Cached cached(const DecodeShape& shape, const float* qkv, float* keys, float* values, float* out) {
  const auto number = [](int64_t n) { return static_cast<int>(n); };
  return {.qkv = qkv,
          .keys = keys,
          .values = values,
          .out = out,
          .heads = number(shape.heads),
          .dim = number(shape.head_dim),
          .capacity = number(shape.capacity),
          .slot_new = number(shape.position % shape.capacity),
          .slot_first = number(shape.first % shape.capacity),
          .visible = number(shape.position - shape.first + 1)};
}

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
  run(context, a, shape.linear, d % 16 == 0);
}

void attend_cached(cuda::Context& context, const Cached& queries, int64_t rows, bool linear) {
  const Attention<Cached> a{.queries = queries,
                            .items = rows * queries.heads,
                            .dim = queries.dim,
                            .most = queries.visible,
                            .scale = scale_of(queries.dim),
                            .spilled = nullptr};
  run(context, a, linear, queries.dim % 16 == 0);
}

}  // namespace megabyte::exact_cuda
