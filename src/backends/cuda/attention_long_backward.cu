// The gradient of attention over long rows (attention_long_forward.cu), without atomics: one kernel
// takes 64 queries a warpgroup and sums dq over tiles of keys, another 64 keys a warpgroup and sums
// dk and dv over tiles of queries. Scores are made twice, and every sum has one order.
//
// The two are one kernel with the parts exchanged: a block's own positions have two tiles, those
// that it runs over have two (queries and output gradients; keys and values), and of the products
// of the first tiles and of the second ones, rows are its own positions.
#include <cmath>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/attention_pipeline.cuh"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

[[maybe_unused]] constexpr float kLog2e = 1.4426950408889634F;

struct Scale {
  float log2, plain;  // of the scores: to powers of two, and as they are
};

// Two tiles of the block's own positions, then tiles of the others in turn; with them, when they
// are queries, their statistics.
template <int D, bool kOfKeys>
struct Layout {
  static constexpr int kGroups = D == 64 ? 3 : 2, kThreads = (kGroups + 1) * 128;
  static constexpr int kOwn = kGroups * 64, kOthers = D == 128 && !kOfKeys ? 128 : 64;
  static constexpr int kSlots = D == 64 ? 16 : kOfKeys ? 8 : 4;
  using Own = SharedTile<kOwn, D>;
  using Others = SharedTile<kOthers, D>;
  static constexpr uint32_t kStatistics = kOfKeys ? kOthers * sizeof(float2) : 0;
  static constexpr uint32_t kAtStatistics = 2 * Own::kBytes + kSlots * Others::kBytes;
  static constexpr uint32_t kBarriers = kAtStatistics + kSlots / 2 * kStatistics;
  static constexpr uint32_t kBytes = kBarriers + Ring<kSlots>::kBytes + 2 * 8 + 1024;
  uint32_t base;

  __device__ explicit Layout(const uint8_t* memory)
      : base((shared_address(memory) + 1023) & ~uint32_t{1023}) {}
  __device__ Own own(uint32_t i) const { return {base + i * Own::kBytes}; }
  __device__ Others others(uint32_t slot) const {
    return {base + 2 * Own::kBytes + slot * Others::kBytes};
  }
  __device__ uint32_t statistics(uint32_t slot) const {
    return base + kAtStatistics + slot / 2 * kStatistics;
  }
  __device__ Ring<kSlots> ring() const { return {base + kBarriers}; }
  __device__ uint32_t own_full() const { return base + kBarriers + Ring<kSlots>::kBytes; }
  __device__ uint32_t own_empty() const { return own_full() + 8; }
};

// What the kernel of the queries leaves that of the keys: for each query the log-sum-exp of its
// scores, to base 2, and dout.out. Queries that make a last tile whole see nothing.
[[maybe_unused]] __device__ int64_t at_statistics(const AttentionRows& rows, int row, int head,
                                                  int query) {
  return (int64_t{row} * rows.heads + head) * long_statistics(rows) + query;
}

template <int D, bool kOfKeys>
__global__ void __launch_bounds__(Layout<D, kOfKeys>::kThreads, 1)
    long_backward_kernel(const __grid_constant__ CUtensorMap qkv,
                         const __grid_constant__ CUtensorMap dout, LongShares shares,
                         AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  using L = Layout<D, kOfKeys>;
  constexpr int kGroups = L::kGroups, kOwn = L::kOwn, kOthers = L::kOthers;
  const L layout(memory);
  const uint32_t own_full = layout.own_full(), own_empty = layout.own_empty();
  auto ring = layout.ring();
  if (threadIdx.x == 0) {
    ring.init(kGroups * 128);
    init_arrivals(own_full, 1);
    init_arrivals(own_empty, kGroups * 4);
    publish_arrivals();
  }
  __syncthreads();
  const int width = rows.heads * D;
  const int group = static_cast<int>(threadIdx.x) / 128;
  auto* statistics = reinterpret_cast<float2*>(x.delta);
  // The others that a share's own positions meet: [start, end). Tiles of queries begin at multiples
  // of their size, so that statistics are there for all of a last one.
  const auto others_of = [&](int first, int& start, int& end) {
    if constexpr (kOfKeys) {
      start = rows.first_asking(first) / kOthers * kOthers;
      end = rows.end_asking(min(first + kOwn, rows.keys()) - 1);
    } else {
      start = rows.begin(first);
      end = rows.position(min(first + kOwn, rows.asking()) - 1) + 1;
    }
  };
  if (group == kGroups) {
    Registers<kGroups>::give();
    if (threadIdx.x % 128 != 0) return;
    uint32_t phase = 1;
    shares.for_each(rows, kOwn, [&](const LongShares::Share& share) {
      const int first = share.first, row = share.row, column = share.head * D;
      int start, end;
      others_of(first, start, end);
      const auto send_queries = [&](const auto& to, int query, uint32_t arrival) {
        send(to, qkv, column, rows.position(query), row, arrival);
      };
      wait_for_arrivals(own_empty, phase);
      phase ^= 1;
      arrive_expecting(own_full, 2 * L::Own::kBytes);
      if constexpr (kOfKeys) {
        send(layout.own(0), qkv, width + column, first, row, own_full);
        send(layout.own(1), qkv, 2 * width + column, first, row, own_full);
      } else {
        send_queries(layout.own(0), first, own_full);
        send(layout.own(1), dout, column, first, row, own_full);
      }
      for (int other = start; other < end; other += kOthers) {
        uint32_t slot = ring.refill(L::Others::kBytes + L::kStatistics);
        if constexpr (kOfKeys) {
          send_queries(layout.others(slot), other, ring.full(slot));
          copy_bulk(layout.statistics(slot),
                    statistics + at_statistics(rows, row, share.head, other), L::kStatistics,
                    ring.full(slot));
        } else {
          send(layout.others(slot), qkv, width + column, other, row, ring.full(slot));
        }
        slot = ring.refill(L::Others::kBytes);
        if constexpr (kOfKeys)
          send(layout.others(slot), dout, column, other, row, ring.full(slot));
        else
          send(layout.others(slot), qkv, 2 * width + column, other, row, ring.full(slot));
      }
    });
    return;
  }
  Registers<kGroups>::take();
  const Turns<kGroups> turns(group);
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, c = static_cast<int>(threadIdx.x) % 4;
  const int row_in_block = static_cast<int>(threadIdx.x) / 32 * 16 + g;
  uint32_t phase = 0;
  shares.for_each(rows, kOwn, [&](const LongShares::Share& share) {
    const int first = share.first, row = share.row, head = share.head;
    const int last = min(first + kOwn, kOfKeys ? rows.keys() : rows.asking()) - 1;
    const int group_first = min(first + group * 64, last),
              group_last = min(first + group * 64 + 63, last);
    int start, end;
    others_of(first, start, end);

    // Of queries g and g + 8: what they see and their statistics.
    int position[2], begin[2];
    float top[2], delta[2];
    if constexpr (!kOfKeys) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int asking = first + row_in_block + 8 * i, query = min(asking, last);
        position[i] = rows.position(query);
        begin[i] = rows.begin(query);
        const int64_t at = rows.out_row(row, query) * width + head * D;
        RowTile<D> of_dout, of_out;
        of_dout.load(x.dout + at, x.dout + at);
        of_out.load(x.out + at, x.out + at);
        const bool asks = asking <= last;
        top[i] = asks ? x.stats[rows.stats_index(row, query, head)] * kLog2e : INFINITY;
        const float product = quad_sum(of_dout.dot(of_out, 0));
        delta[i] = asks ? product : 0;
        if (c == 0) statistics[at_statistics(rows, row, head, asking)] = {top[i], delta[i]};
      }
    }
    // Hides the scores of keys that a query does not see.
    const auto hide_unseen = [&](float(&scores)[kOthers / 2], int other) {
      if constexpr (kOfKeys) {
        if (rows.position(other) >= group_last && rows.begin(other + kOthers - 1) <= group_first)
          return;
#pragma unroll
        for (int j = 0; j < kOthers / 2; ++j) {
          const int query = other + j / 4 * 8 + 2 * c + j % 2;
          const int key = first + row_in_block + 8 * (j / 2 % 2);
          if (key < rows.begin(query) || key > rows.position(query)) scores[j] = -INFINITY;
        }
      } else {
        if (other >= rows.begin(group_last) && other + kOthers - 1 <= rows.position(group_first))
          return;
#pragma unroll
        for (int j = 0; j < kOthers / 2; ++j) {
          const int i = j / 2 % 2, key = other + j / 4 * 8 + 2 * c + j % 2;
          if (key < begin[i] || key > position[i]) scores[j] = -INFINITY;
        }
      }
    };

    float sums[D / 2] = {};                      // dq or dk
    float value_sums[kOfKeys ? D / 2 : 1] = {};  // dv
    float scores[kOthers / 2], dscores[kOthers / 2];
    wait_for_arrivals(own_full, phase);
    phase ^= 1;
    for (int other = start; other < end; other += kOthers) {
      turns.wait();
      const uint32_t slot = ring.take();
      products_begin();
      multiply_rows(scores, layout.own(0), group * 64, layout.others(slot));
      products_end();
      const uint32_t second = ring.take();
      products_begin();
      multiply_rows(dscores, layout.own(1), group * 64, layout.others(second));
      products_end();
      turns.pass();
      products_wait<1>(scores);
      hide_unseen(scores, other);
      const auto statistics_of = [&](int j) {  // of columns j and j + 1
        return load_float4(layout.statistics(slot) +
                           static_cast<uint32_t>(j / 4 * 8 + 2 * c) * sizeof(float2));
      };
#pragma unroll
      for (int j = 0; j < kOthers / 2; j += 2) {
        if constexpr (kOfKeys) {
          const float4 pair = statistics_of(j);
          scores[j] = power_of_two(fmaf(scores[j], scale.log2, -pair.x));
          scores[j + 1] = power_of_two(fmaf(scores[j + 1], scale.log2, -pair.z));
        } else {
          scores[j] = power_of_two(fmaf(scores[j], scale.log2, -top[j / 2 % 2]));
          scores[j + 1] = power_of_two(fmaf(scores[j + 1], scale.log2, -top[j / 2 % 2]));
        }
      }
      uint32_t weights[kOthers / 16][4], dweights[kOthers / 16][4];
      if constexpr (kOfKeys) pack_sums(scores, weights);
      products_wait<0>(dscores);
#pragma unroll
      for (int j = 0; j < kOthers / 2; j += 2) {
        if constexpr (kOfKeys) {
          const float4 pair = statistics_of(j);
          dscores[j] = scores[j] * (dscores[j] - pair.y);
          dscores[j + 1] = scores[j + 1] * (dscores[j + 1] - pair.w);
        } else {
          dscores[j] = scores[j] * (dscores[j] - delta[j / 2 % 2]);
          dscores[j + 1] = scores[j + 1] * (dscores[j + 1] - delta[j / 2 % 2]);
        }
      }
      pack_sums(dscores, dweights);
      turns.wait();
      products_begin();
      if constexpr (kOfKeys) multiply_packed(value_sums, weights, layout.others(second));
      multiply_packed(sums, dweights, layout.others(slot));
      products_end();
      turns.pass();
      products_wait<0>(sums, value_sums);
      ring.release(slot);
      ring.release(second);
    }
    if (threadIdx.x % 32 == 0) arrive(own_empty);

    bf16* gradients = x.dqkv + head * D;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int own = first + row_in_block + 8 * i;
      if constexpr (kOfKeys) {
        bf16* to = gradients + rows.key_row(row, min(own, last)) * 3 * width + width;
        store_row(sums, i, scale.plain, to, own <= last);
        store_row(value_sums, i, 1, to + width, own <= last);
      } else {
        store_row(sums, i, scale.plain, gradients + rows.key_row(row, position[i]) * 3 * width,
                  own <= last);
      }
    }
  });
#else
  __trap();  // long_supported() keeps such devices away
#endif
}

template <int D, bool kOfKeys>
void launch(const AttentionRows& rows, const AttentionBackward<bf16>& x, cudaStream_t stream) {
  using L = Layout<D, kOfKeys>;
  const double plain = 1 / std::sqrt(static_cast<double>(D));
  const Scale scale{static_cast<float>(plain / std::log(2.0)), static_cast<float>(plain)};
  const auto kernel = long_backward_kernel<D, kOfKeys>;
  const LongShares shares(rows, kOfKeys ? rows.keys() : rows.asking(), L::kOwn, !kOfKeys);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes),
             "attention_backward");
  kernel<<<shares.blocks(), L::kThreads, L::kBytes, stream>>>(
      map_of_rows(x.qkv, rows.rows, rows.keys(), 3 * rows.width()),
      map_of_rows(x.dout, rows.rows, rows.asking(), rows.width()), shares, rows, x, scale);
  check_launch("attention_backward");
}

template <int D>
void launch_both(const AttentionRows& rows, const AttentionBackward<bf16>& x, cudaStream_t stream) {
  launch<D, false>(rows, x, stream);
  launch<D, true>(rows, x, stream);
}

}  // namespace

void long_backward(const AttentionRows& rows, const AttentionBackward<bf16>& x,
                   cudaStream_t stream) {
  if (rows.head_dim == 64) launch_both<64>(rows, x, stream);
  if (rows.head_dim == 128) launch_both<128>(rows, x, stream);
}

}  // namespace megabyte::cuda
