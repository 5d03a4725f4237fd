// Attention over long rows on Hopper's tensor cores, after FlashAttention (Dao et al. 2022; Shah et
// al. 2024): a block answers 64 queries of one head with each of its warpgroups, running over tiles
// of keys that are copied while the tile before is in use.
#include <cmath>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/attention_warpgroup.cuh"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

constexpr int kGroups = 2, kThreads = kGroups * 128, kQueries = kGroups * 64;

template <int D>
struct Layout {
  using Queries = SharedTile<kQueries, D>;
  static constexpr int kKeys = D;  // of a tile: 64 leave room for two blocks
  using Keys = SharedTile<kKeys, D>;
  static constexpr uint32_t kStage = 2 * Keys::kBytes;
  static constexpr uint32_t kBytes = Queries::kBytes + 2 * kStage + 1024;  // aligned by the kernel
};

template <int D>
__global__ void __launch_bounds__(kThreads, D == 64 ? 2 : 1)
    long_forward_kernel(AttentionRows rows, AttentionForward<bf16> x, float scale) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  using L = Layout<D>;
  constexpr int kKeys = L::kKeys;
  const auto base = (shared_address(memory) + 1023) & ~uint32_t{1023};
  const typename L::Queries queries{base};
  const auto keys_of = [&](int stage) {
    return typename L::Keys{base + L::Queries::kBytes + static_cast<uint32_t>(stage) * L::kStage};
  };
  const auto values_of = [&](int stage) {
    return typename L::Keys{keys_of(stage).address + L::Keys::kBytes};
  };
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, c = static_cast<int>(threadIdx.x) % 4;
  const int row_in_block = static_cast<int>(threadIdx.x) / 32 * 16 + g;  // and 8 below

  // The last queries see most: they start first.
  AttentionBlock block(rows, rows.asking(), kQueries, true);
  const int head = block.head, row = block.row, first = block.first;
  const int last = min(first + kQueries, rows.asking()) - 1;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(row, 0) * 3 * width + head * D;
  const auto at = [&](int key) { return inputs + int64_t{key} * 3 * width; };
  const int end = rows.position(last) + 1, start = rows.begin(first);
  const auto copy_keys = [&](int key, int stage) {
    keys_of(stage).template copy<kThreads>(
        [&](int r) { return at(min(key + r, end - 1)) + width; });
    values_of(stage).template copy<kThreads>(
        [&](int r) { return at(min(key + r, end - 1)) + 2 * width; });
    commit_copies();
  };
  queries.template copy<kThreads>([&](int r) { return at(rows.position(min(first + r, last))); });
  copy_keys(start, 0);

  int position[2], begin[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = min(first + row_in_block + 8 * i, last);
    position[i] = rows.position(query);
    begin[i] = rows.begin(query);
  }
  // Tiles of keys in [all_from, all_to) are seen in full by every query of this warpgroup.
  const int all_from = rows.begin(min(first + group * 64 + 63, last));
  const int all_to = rows.position(min(first + group * 64, last)) + 1;

  float out[D / 2] = {};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  int stage = 0;
  for (int key = start; key < end; key += kKeys, stage ^= 1) {
    copies_wait();
    __syncthreads();
    if (key + kKeys < end) copy_keys(key + kKeys, stage ^ 1);
    float scores[kKeys / 2];
    products_begin();
    multiply_rows(scores, queries, group * 64, keys_of(stage));
    products_end();
    products_wait<0>();
    if (key < all_from || key + kKeys > all_to) {
#pragma unroll
      for (int j = 0; j < kKeys / 2; ++j) {
        const int i = j / 2 % 2, at_key = key + j / 4 * 8 + 2 * c + j % 2;
        if (at_key < begin[i] || at_key > position[i]) scores[j] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < kKeys / 4; ++j)
        largest = fmaxf(largest, scores[j / 2 * 4 + 2 * i + j % 2]);
      largest = quad_max(largest);
      const float shift = largest == -INFINITY ? 0 : largest * scale;  // nothing seen so far
      const float fade = power_of_two(fmaf(top[i], scale, -shift));
      top[i] = largest;
      total[i] *= fade;
#pragma unroll
      for (int j = 0; j < kKeys / 4; ++j) {
        float& score = scores[j / 2 * 4 + 2 * i + j % 2];
        score = power_of_two(fmaf(score, scale, -shift));
        total[i] += score;
      }
#pragma unroll
      for (int j = 0; j < D / 4; ++j) out[j / 2 * 4 + 2 * i + j % 2] *= fade;
    }
    uint32_t weights[kKeys / 16][4];
    pack_sums(scores, weights);
    products_begin();
    multiply_packed(out, weights, values_of(stage));
    products_end();
    products_wait<0>();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] = quad_sum(total[i]);
    const int query = first + row_in_block + 8 * i;
    if (query > last) continue;
    const float factor = 1 / total[i];
    bf16* to = x.out + rows.out_row(row, query) * width + head * D + 2 * c;
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
      *reinterpret_cast<uint32_t*>(to + 8 * j) =
          pack(out[4 * j + 2 * i] * factor, out[4 * j + 2 * i + 1] * factor);
    if (x.stats != nullptr && c == 0)
      x.stats[rows.stats_index(row, query, head)] =
          (top[i] * scale + log2f(total[i])) * 0.6931471805599453F;
  }
#else
  __trap();  // long_supported() keeps such devices away
#endif
}

template <int D>
void launch(const AttentionRows& rows, const AttentionForward<bf16>& x, cudaStream_t stream) {
  const auto scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(D)) * std::log(2.0)));
  check_cuda(cudaFuncSetAttribute(long_forward_kernel<D>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<D>::kBytes),
             "attention_forward");
  long_forward_kernel<D>
      <<<attention_blocks(rows, rows.asking(), kQueries), kThreads, Layout<D>::kBytes, stream>>>(
          rows, x, scale);
  check_launch("attention_forward");
}

}  // namespace

bool long_supported() {
  static const bool supported = [] {
    // Is the code in use that of sm_90a, not one that the driver made from the general kernels?
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, long_forward_kernel<64>), "attention_forward");
    return attributes.binaryVersion == 90 && attributes.ptxVersion == 90;
  }();
  return supported;
}

void long_forward(const AttentionRows& rows, const AttentionForward<bf16>& x, cudaStream_t stream) {
  if (rows.head_dim == 64) launch<64>(rows, x, stream);
  if (rows.head_dim == 128) launch<128>(rows, x, stream);
}

}  // namespace megabyte::cuda
