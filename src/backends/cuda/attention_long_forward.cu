// Attention over long rows on Hopper's tensor cores, after FlashAttention (Dao et al. 2022; Shah et
// al. 2024): each warpgroup of a block answers 64 queries of one head. While the products of a tile
// of keys run, it takes the exponentials of the tile before.
#include <cmath>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/attention_pipeline.cuh"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

// The block's queries, then tiles of keys and of values in turn, then barriers.
template <int D>
struct Layout {
  static constexpr int kGroups = D == 64 ? 3 : 2, kThreads = (kGroups + 1) * 128;
  static constexpr int kQueries = kGroups * 64, kKeys = 128, kSlots = D == 64 ? 8 : 4;
  using Queries = SharedTile<kQueries, D>;
  using Keys = SharedTile<kKeys, D>;
  static constexpr uint32_t kBarriers = Queries::kBytes + kSlots * Keys::kBytes;
  static constexpr uint32_t kBytes = kBarriers + Ring<kSlots>::kBytes + 2 * 8 + 1024;
  uint32_t base;

  __device__ explicit Layout(const uint8_t* memory)
      : base((shared_address(memory) + 1023) & ~uint32_t{1023}) {}
  __device__ Queries queries() const { return {base}; }
  __device__ Keys tile(uint32_t slot) const {
    return {base + Queries::kBytes + slot * Keys::kBytes};
  }
  __device__ Ring<kSlots> ring() const { return {base + kBarriers}; }
  __device__ uint32_t queries_full() const { return base + kBarriers + Ring<kSlots>::kBytes; }
  __device__ uint32_t queries_empty() const { return queries_full() + 8; }
};

// Softmax as it goes on over tiles, of rows g and g + 8: the largest score and the sum of weights
// so far, the latter of this lane's columns only.
struct RunningSoftmax {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

  // Makes scores weights, and says by what to multiply the results so far.
  template <int kSums>
  __device__ void add(float (&scores)[kSums], float scale, float (&fade)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most[2] = {top[i], -INFINITY}, sum[2] = {0, 0};
#pragma unroll
      for (int j = 0; j < kSums / 2; ++j)
        most[j % 2] = fmaxf(most[j % 2], scores[j / 2 * 4 + 2 * i + j % 2]);
      const float largest = quad_max(fmaxf(most[0], most[1]));
      const float shift = largest == -INFINITY ? 0 : largest * scale;  // nothing seen so far
      fade[i] = power_of_two(fmaf(top[i], scale, -shift));
      top[i] = largest;
#pragma unroll
      for (int j = 0; j < kSums / 2; ++j) {
        float& score = scores[j / 2 * 4 + 2 * i + j % 2];
        score = power_of_two(fmaf(score, scale, -shift));
        sum[j % 2] += score;
      }
      total[i] = fmaf(total[i], fade[i], sum[0] + sum[1]);
    }
  }
};

template <int D>
__global__ void __launch_bounds__(Layout<D>::kThreads, 1)
    long_forward_kernel(const __grid_constant__ CUtensorMap qkv, LongShares shares,
                        AttentionRows rows, AttentionForward<bf16> x, float scale) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  using L = Layout<D>;
  constexpr int kGroups = L::kGroups, kKeys = L::kKeys, kQueries = L::kQueries;
  const L layout(memory);
  const auto queries = layout.queries();
  const uint32_t queries_full = layout.queries_full(), queries_empty = layout.queries_empty();
  auto ring = layout.ring();
  if (threadIdx.x == 0) {
    ring.init(kGroups * 128);
    init_arrivals(queries_full, 1);
    init_arrivals(queries_empty, kGroups * 4);
    publish_arrivals();
  }
  __syncthreads();
  const int width = rows.heads * D;
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == kGroups) {
    Registers<kGroups>::give();
    if (threadIdx.x % 128 != 0) return;
    uint32_t phase = 1;
    shares.for_each(rows, kQueries, [&](const LongShares::Share& share) {
      const int last = min(share.first + kQueries, rows.asking()) - 1;
      const int end = rows.position(last) + 1, start = rows.begin(share.first);
      const int column = share.head * D;
      wait_for_arrivals(queries_empty, phase);
      phase ^= 1;
      arrive_expecting(queries_full, L::Queries::kBytes);
      send(queries, qkv, column, rows.position(share.first), share.row, queries_full);
      const auto send_tile = [&](int from, int key) {
        const uint32_t slot = ring.refill(L::Keys::kBytes);
        send(layout.tile(slot), qkv, from, key, share.row, ring.full(slot));
      };
      send_tile(width + column, start);
      for (int key = start + kKeys; key < end; key += kKeys) {
        send_tile(width + column, key);
        send_tile(2 * width + column, key - kKeys);
      }
      send_tile(2 * width + column, start + (end - 1 - start) / kKeys * kKeys);
    });
    return;
  }
  Registers<kGroups>::take();
  const Turns<kGroups> turns(group);
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, c = static_cast<int>(threadIdx.x) % 4;
  const int row_in_block = static_cast<int>(threadIdx.x) / 32 * 16 + g;  // and 8 below
  uint32_t phase = 0;
  shares.for_each(rows, kQueries, [&](const LongShares::Share& share) {
    const int first = share.first, last = min(first + kQueries, rows.asking()) - 1;
    const int end = rows.position(last) + 1, start = rows.begin(first);
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
    const auto hide_unseen = [&](float(&scores)[kKeys / 2], int key) {
      if (key >= all_from && key + kKeys <= all_to) return;
#pragma unroll
      for (int j = 0; j < kKeys / 2; ++j) {
        const int i = j / 2 % 2, at_key = key + j / 4 * 8 + 2 * c + j % 2;
        if (at_key < begin[i] || at_key > position[i]) scores[j] = -INFINITY;
      }
    };

    float out[D / 2] = {}, scores[kKeys / 2], fade[2];
    uint32_t weights[kKeys / 16][4];
    RunningSoftmax softmax;
    wait_for_arrivals(queries_full, phase);
    phase ^= 1;
    turns.wait();
    uint32_t keys = ring.take();
    products_begin();
    multiply_rows(scores, queries, group * 64, layout.tile(keys));
    products_end();
    turns.pass();
    products_wait<0>(scores);
    ring.release(keys);
    hide_unseen(scores, start);
    softmax.add(scores, scale, fade);
    pack_sums(scores, weights);
    for (int key = start + kKeys; key < end; key += kKeys) {
      turns.wait();
      keys = ring.take();
      products_begin();
      multiply_rows(scores, queries, group * 64, layout.tile(keys));
      products_end();
      const uint32_t values = ring.take();
      products_begin();
      multiply_packed(out, weights, layout.tile(values));
      products_end();
      turns.pass();
      products_wait<1>(scores);
      ring.release(keys);
      hide_unseen(scores, key);
      softmax.add(scores, scale, fade);
      products_wait<0>(out);
      ring.release(values);
#pragma unroll
      for (int j = 0; j < D / 2; ++j) out[j] *= fade[j / 2 % 2];
      pack_sums(scores, weights);
    }
    if (threadIdx.x % 32 == 0) arrive(queries_empty);
    turns.wait();
    const uint32_t values = ring.take();
    products_begin();
    multiply_packed(out, weights, layout.tile(values));
    products_end();
    turns.pass();
    products_wait<0>(out);
    ring.release(values);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float total = quad_sum(softmax.total[i]);
      const int query = first + row_in_block + 8 * i;
      store_row(out, i, 1 / total, x.out + rows.out_row(share.row, query) * width + share.head * D,
                query <= last);
      if (x.stats != nullptr && c == 0 && query <= last)
        x.stats[rows.stats_index(share.row, query, share.head)] =
            (softmax.top[i] * scale + log2f(total)) * 0.6931471805599453F;
    }
  });
#else
  __trap();  // long_supported() keeps such devices away
#endif
}

template <int D>
void launch(const AttentionRows& rows, const AttentionForward<bf16>& x, cudaStream_t stream) {
  using L = Layout<D>;
  const auto scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(D)) * std::log(2.0)));
  const LongShares shares(rows, rows.asking(), L::kQueries, true);
  const CUtensorMap qkv = map_of_rows(x.qkv, rows.rows, rows.keys(), 3 * rows.width());
  check_cuda(cudaFuncSetAttribute(long_forward_kernel<D>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes),
             "attention_forward");
  long_forward_kernel<D>
      <<<shares.blocks(), L::kThreads, L::kBytes, stream>>>(qkv, shares, rows, x, scale);
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
