// The gradient of attention over long rows (attention_long_forward.cu), without atomics: one kernel
// takes 64 queries a warpgroup and sums dq over tiles of keys, another 64 keys a warpgroup and sums
// dk and dv over tiles of queries. Scores are made twice, and every sum has one order.
#include <cmath>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/attention_warpgroup.cuh"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

constexpr int kOthers = 64;
[[maybe_unused]] constexpr float kLog2e = 1.4426950408889634F;

struct Scale {
  float log2, plain;  // of the scores: to powers of two, and as they are
};

// Two tiles of the block's own positions, then two stages of two tiles of the others.
template <int D, int kGroups>
struct Layout {
  static constexpr int kThreads = kGroups * 128, kOwn = kGroups * 64;
  using Own = SharedTile<kOwn, D>;
  using Others = SharedTile<kOthers, D>;
  static constexpr uint32_t kStage = 2 * Others::kBytes;
  static constexpr uint32_t kStatistics = 2 * Own::kBytes + 2 * kStage;  // [stage][2][kOthers]
  static constexpr uint32_t kBytes = kStatistics + 4 * kOthers * sizeof(float) + 1024;
  uint32_t base;

  __device__ explicit Layout(const uint8_t* memory)
      : base((shared_address(memory) + 1023) & ~uint32_t{1023}) {}
  __device__ Own own(int i) const { return {base + static_cast<uint32_t>(i) * Own::kBytes}; }
  __device__ Others others(int stage, int i) const {
    return {base + 2 * Own::kBytes + static_cast<uint32_t>(stage) * kStage +
            static_cast<uint32_t>(i) * Others::kBytes};
  }
};

// Writes rows g and g + 8 of a warp's sums.
template <int kSums>
__device__ void store_row(const float (&sums)[kSums], int i, bf16* to) {
  const unsigned c = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kSums / 4; ++j)
    *reinterpret_cast<uint32_t*>(to + 8 * j + 2 * c) =
        pack(sums[4 * j + 2 * i], sums[4 * j + 2 * i + 1]);
}

template <int D, int kGroups>
__global__ void __launch_bounds__(kGroups * 128, D == 64 ? 2 : 1)
    long_queries_kernel(AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  using L = Layout<D, kGroups>;
  constexpr int kThreads = L::kThreads, kOwn = L::kOwn;
  const L layout(memory);
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, c = static_cast<int>(threadIdx.x) % 4;
  const int row_in_block = static_cast<int>(threadIdx.x) / 32 * 16 + g;

  const AttentionBlock block(rows, rows.asking(), kOwn, true);
  const int head = block.head, row = block.row, first = block.first;
  const int last = min(first + kOwn, rows.asking()) - 1;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(row, 0) * 3 * width + head * D;
  const auto at = [&](int key) { return inputs + int64_t{key} * 3 * width; };
  const auto answer = [&](const bf16* of, int query) {
    return of + rows.out_row(row, query) * width + head * D;
  };
  const int end = rows.position(last) + 1, start = rows.begin(first);
  const auto copy_keys = [&](int key, int stage) {
    layout.others(stage, 0).template copy<kThreads>(
        [&](int r) { return at(min(key + r, end - 1)) + width; });
    layout.others(stage, 1).template copy<kThreads>(
        [&](int r) { return at(min(key + r, end - 1)) + 2 * width; });
    commit_copies();
  };
  layout.own(0).template copy<kThreads>(
      [&](int r) { return at(rows.position(min(first + r, last))); });
  layout.own(1).template copy<kThreads>(
      [&](int r) { return answer(x.dout, min(first + r, last)); });
  copy_keys(start, 0);

  int position[2], begin[2];
  float top[2], delta[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = min(first + row_in_block + 8 * i, last);
    const int64_t at_stats = rows.stats_index(row, query, head);
    position[i] = rows.position(query);
    begin[i] = rows.begin(query);
    top[i] = x.stats[at_stats] * kLog2e;
    RowTile<D> dout, out;
    dout.load(answer(x.dout, query), answer(x.dout, query));
    out.load(answer(x.out, query), answer(x.out, query));
    delta[i] = quad_sum(dout.dot(out, 0));
    if (c == 0) x.delta[at_stats] = delta[i];
  }
  const int all_from = rows.begin(min(first + group * 64 + 63, last));
  const int all_to = rows.position(min(first + group * 64, last)) + 1;

  float dq[D / 2] = {};
  int stage = 0;
  for (int key = start; key < end; key += kOthers, stage ^= 1) {
    copies_wait();
    __syncthreads();
    if (key + kOthers < end) copy_keys(key + kOthers, stage ^ 1);
    float scores[kOthers / 2], dweights[kOthers / 2];
    products_begin();
    multiply_rows(scores, layout.own(0), group * 64, layout.others(stage, 0));
    multiply_rows(dweights, layout.own(1), group * 64, layout.others(stage, 1));
    products_end();
    products_wait<0>();
    if (key < all_from || key + kOthers > all_to) {
#pragma unroll
      for (int j = 0; j < kOthers / 2; ++j) {
        const int i = j / 2 % 2, at_key = key + j / 4 * 8 + 2 * c + j % 2;
        if (at_key < begin[i] || at_key > position[i]) scores[j] = -INFINITY;
      }
    }
#pragma unroll
    for (int j = 0; j < kOthers / 2; ++j) {
      const int i = j / 2 % 2;
      scores[j] = power_of_two(fmaf(scores[j], scale.log2, -top[i])) * (dweights[j] - delta[i]);
    }
    uint32_t dscores[kOthers / 16][4];
    pack_sums(scores, dscores);
    products_begin();
    multiply_packed(dq, dscores, layout.others(stage, 0));
    products_end();
    products_wait<0>();
  }
#pragma unroll
  for (float& sum : dq) sum *= scale.plain;
  bf16* gradients = x.dqkv + rows.key_row(row, 0) * 3 * width + head * D;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (first + row_in_block + 8 * i <= last)
      store_row(dq, i, gradients + int64_t{position[i]} * 3 * width);
#else
  __trap();  // long_supported() keeps such devices away
#endif
}

template <int D, int kGroups>
__global__ void __launch_bounds__(kGroups * 128, 1)
    long_keys_kernel(AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  using L = Layout<D, kGroups>;
  constexpr int kThreads = L::kThreads, kOwn = L::kOwn;
  const L layout(memory);
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, c = static_cast<int>(threadIdx.x) % 4;
  const int row_in_block = static_cast<int>(threadIdx.x) / 32 * 16 + g;
  auto* statistics =
      reinterpret_cast<float*>(memory + (layout.base - shared_address(memory)) + L::kStatistics);

  const AttentionBlock block(rows, rows.keys(), kOwn);
  const int head = block.head, row = block.row, first = block.first;
  const int last = min(first + kOwn, rows.keys()) - 1;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(row, 0) * 3 * width + head * D;
  const auto at = [&](int key) { return inputs + int64_t{key} * 3 * width; };
  const int start = rows.first_asking(first), end = rows.end_asking(last);
  const auto copy_queries = [&](int query, int stage) {
    layout.others(stage, 0).template copy<kThreads>(
        [&](int r) { return at(rows.position(min(query + r, end - 1))); });
    layout.others(stage, 1).template copy<kThreads>([&](int r) {
      return x.dout + rows.out_row(row, min(query + r, end - 1)) * width + head * D;
    });
    commit_copies();
    const int i = static_cast<int>(threadIdx.x);
    if (i < kOthers) {
      const int64_t at_stats = rows.stats_index(row, min(query + i, end - 1), head);
      statistics[stage * 2 * kOthers + i] = x.stats[at_stats] * kLog2e;
      statistics[(stage * 2 + 1) * kOthers + i] = x.delta[at_stats];
    }
  };
  layout.own(0).template copy<kThreads>([&](int r) { return at(min(first + r, last)) + width; });
  layout.own(1).template copy<kThreads>(
      [&](int r) { return at(min(first + r, last)) + 2 * width; });
  copy_queries(start, 0);

  const int group_first = min(first + group * 64, last),
            group_last = min(first + group * 64 + 63, last);
  float dk[D / 2] = {}, dv[D / 2] = {};
  int stage = 0;
  for (int query = start; query < end; query += kOthers, stage ^= 1) {
    copies_wait();
    __syncthreads();
    if (query + kOthers < end) copy_queries(query + kOthers, stage ^ 1);
    // Transposed: rows are keys, columns are queries.
    float weights[kOthers / 2], dscores[kOthers / 2];
    products_begin();
    multiply_rows(weights, layout.own(0), group * 64, layout.others(stage, 0));
    multiply_rows(dscores, layout.own(1), group * 64, layout.others(stage, 1));
    products_end();
    products_wait<0>();
    if (query + kOthers > end || rows.position(query) < group_last ||
        rows.begin(query + kOthers - 1) > group_first) {
#pragma unroll
      for (int j = 0; j < kOthers / 2; ++j) {
        const int column = query + j / 4 * 8 + 2 * c + j % 2;
        const int asking = min(column, end - 1), key = first + row_in_block + 8 * (j / 2 % 2);
        if (column >= end || key < rows.begin(asking) || key > rows.position(asking))
          weights[j] = -INFINITY;
      }
    }
    const float* tops = statistics + stage * 2 * kOthers;
#pragma unroll
    for (int j = 0; j < kOthers / 2; j += 2) {
      const int column = j / 4 * 8 + 2 * c;
      const auto top = *reinterpret_cast<const float2*>(tops + column);
      const auto delta = *reinterpret_cast<const float2*>(tops + kOthers + column);
      weights[j] = power_of_two(fmaf(weights[j], scale.log2, -top.x));
      weights[j + 1] = power_of_two(fmaf(weights[j + 1], scale.log2, -top.y));
      dscores[j] = weights[j] * (dscores[j] - delta.x);
      dscores[j + 1] = weights[j + 1] * (dscores[j + 1] - delta.y);
    }
    uint32_t packed[kOthers / 16][4], dpacked[kOthers / 16][4];
    pack_sums(weights, packed);
    pack_sums(dscores, dpacked);
    products_begin();
    multiply_packed(dv, packed, layout.others(stage, 1));
    multiply_packed(dk, dpacked, layout.others(stage, 0));
    products_end();
    products_wait<0>();
  }
#pragma unroll
  for (float& sum : dk) sum *= scale.plain;
  bf16* gradients = x.dqkv + rows.key_row(row, 0) * 3 * width + head * D;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = first + row_in_block + 8 * i;
    if (key > last) continue;
    store_row(dk, i, gradients + int64_t{key} * 3 * width + width);
    store_row(dv, i, gradients + int64_t{key} * 3 * width + 2 * width);
  }
#else
  __trap();  // long_supported() keeps such devices away
#endif
}

template <class L, class Kernel>
void launch(Kernel kernel, int positions, const AttentionRows& rows,
            const AttentionBackward<bf16>& x, cudaStream_t stream) {
  const double plain = 1 / std::sqrt(static_cast<double>(rows.head_dim));
  const Scale scale{static_cast<float>(plain / std::log(2.0)), static_cast<float>(plain)};
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes),
             "attention_backward");
  kernel<<<attention_blocks(rows, positions, L::kOwn), L::kThreads, L::kBytes, stream>>>(rows, x,
                                                                                         scale);
  check_launch("attention_backward");
}

// As many warpgroups as the registers of a multiprocessor hold.
template <int D, int kKeyGroups>
void launch_both(const AttentionRows& rows, const AttentionBackward<bf16>& x, cudaStream_t stream) {
  launch<Layout<D, 2>>(long_queries_kernel<D, 2>, rows.asking(), rows, x, stream);
  launch<Layout<D, kKeyGroups>>(long_keys_kernel<D, kKeyGroups>, rows.keys(), rows, x, stream);
}

}  // namespace

void long_backward(const AttentionRows& rows, const AttentionBackward<bf16>& x,
                   cudaStream_t stream) {
  if (rows.head_dim == 64) launch_both<64, 3>(rows, x, stream);
  if (rows.head_dim == 128) launch_both<128, 2>(rows, x, stream);
}

}  // namespace megabyte::cuda
