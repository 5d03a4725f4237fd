// Attention of decode_stack_row.cuh: a short window by every block for itself, a long one in
// shares.
#pragma once

#include "backends/cuda/decode_stack_row.cuh"

namespace megabyte::cuda::stack {

__device__ inline void add_weighted(float (&sums)[4], float weight, uint2 v) {
  const float2 a = unpack(v.x), b = unpack(v.y);
  sums[0] = fmaf(weight, a.x, sums[0]);
  sums[1] = fmaf(weight, a.y, sums[1]);
  sums[2] = fmaf(weight, b.x, sums[2]);
  sums[3] = fmaf(weight, b.y, sums[3]);
}

// Of the cache, for all heads of the warp's piece.
template <class G>
__device__ void Row<G>::load_window(const Layer& w, Window& window) const {
#pragma unroll
  for (int i = 0; i < 2 * G::kPacks; ++i) {
    const bf16* keys = w.keys + head_at(warp_ * 2 * G::kPacks + i) + g_ * kHead + c_ * 8;
#pragma unroll
    for (int c = 0; c < 2; ++c)
      window.keys[i][c] = g_ < call_.position ? keys_early(keys + 32 * c) : uint4{};
  }
#pragma unroll
  for (int i = 0; i < G::kPacks; ++i) {
    const bf16* values =
        w.values + head_at(warp_ * 2 * G::kPacks + 2 * i + lane_ / 16) + lane_ % 16 * 4;
#pragma unroll
    for (int j = 0; j < kShortWindow; ++j)
      window.values[i][j] = j < call_.position ? values_early(values + j * kHead) : uint2{};
  }
}

// A short window: every block attends for itself, each warp with the heads of its piece.
template <class G>
__device__ void Row<G>::attend(const Layer& w, const Window& window) {
  uint2 qkv[3 * G::kPacks];
  await(vector_at(G::kQkvUnits), tag_, qkv);
#pragma unroll
  for (int i = 0; i < G::kPacks; ++i) {
    piece(piece_, i) = qkv[i];
    piece(keys_, i) = qkv[G::kPacks + i];
    if (blockIdx.x == warp_ * G::kPacks + i) {
      const int64_t at = head_at(warp_ * 2 * G::kPacks + 2 * i + lane_ / 16) +
                         call_.position * kHead + lane_ % 16 * 4;
      *reinterpret_cast<uint2*>(w.keys + at) = qkv[G::kPacks + i];
      *reinterpret_cast<uint2*>(w.values + at) = qkv[2 * G::kPacks + i];
    }
  }
  __syncwarp();
  load_operand<true>(piece_);
#pragma unroll
  for (int i = 0; i < G::kPacks; ++i) {
    float weights[2];  // of key g, of two heads
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float score[4] = {}, other[4] = {};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        uint4 k = window.keys[2 * i + h][c];
        if (g_ == call_.position)
          k = *reinterpret_cast<const uint4*>(keys_ + (128 * i + kHead * h + 32 * c + 8 * c_) * 2);
        const uint4 q = operand_[4 * i + 2 * h + c];
        mma(score, k.x, 0, k.y, 0, q.x, q.y);
        mma(other, k.z, 0, k.w, 0, q.z, q.w);
      }
      weights[h] = g_ <= call_.position ? score[0] + other[0] : -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = weights[h];
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0U, top, offset));
      weights[h] = power_of_two((weights[h] - top) * kScoreScale);
      float all = weights[h];
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) all += __shfl_xor_sync(~0U, all, offset);
      weights[h] = __fdividef(weights[h], all);
    }
    const float given = c_ == 0 ? weights[0] : weights[1];
    float sums[4] = {};
#pragma unroll
    for (int j = 0; j < kShortWindow; ++j) {
      const float weight = __shfl_sync(~0U, given, 4 * j + lane_ / 16);
      const uint2 v = j == call_.position ? qkv[2 * G::kPacks + i] : window.values[i][j];
      add_weighted(sums, weight, v);
    }
    __syncwarp();  // the lanes have read q
    piece(piece_, i) = {pack(sums[0], sums[1]), pack(sums[2], sums[3])};
  }
  __syncwarp();
  load_operand<false>(piece_);
}

// A long window: the block attends to its share of one head's keys, eight lanes to a key.
template <class G>
__device__ void Row<G>::attend_to_share(const Layer& w) {
  const int head = static_cast<int>(blockIdx.x) / G::kSplits, e = lane_ % 8;
  const Share<G> share(call_.position);
  uint2 parts[2];  // q and k, v: four elements a lane
  {
    const uint64_t* first = units_ + G::kQkvUnits + (head * kHead + lane_ % 16 * 4) / 2;
    const int part = lane_ < 16 ? 0 : D / 2;
    await([&](int i) { return first + (i == 0 ? part : D); }, tag_, parts);
  }
  auto* vectors = reinterpret_cast<uint2*>(piece_);  // q, k, v
  vectors[lane_] = parts[0];
  if (lane_ < 16) vectors[32 + lane_] = parts[1];
  __syncwarp();
  const auto* chunks = reinterpret_cast<const uint4*>(piece_) + e;
  float q[8], top = -INFINITY, total = 0, sums[8] = {};
  unpack8(chunks[0], q);
#pragma unroll
  for (float& x : q) x *= kScoreScale;
  const int group = warp_ * 4 + lane_ / 8;
  if (group == 0 && share.newest) {
    float k[8];
    unpack8(chunks[8], k);
    top = eight_sum(dot(q, k));
    total = 1;
    unpack8(chunks[16], sums);
    const int64_t at = head_at(head) + call_.position * kHead;
    *(reinterpret_cast<uint4*>(w.keys + at) + e) = chunks[8];
    *(reinterpret_cast<uint4*>(w.values + at) + e) = chunks[16];
  }
  __syncwarp();
  for (int i = 0; i < share.slots(); ++i) {
    const int count = share.count - i * G::kKeys;
    constexpr int kMine = G::kKeys / (4 * kWarps);
    const auto* from = reinterpret_cast<const uint4*>(ring_.memory(0)) + lane_ + warp_ * 32;
    ring_.wait(0);
    float scores[kMine], largest = top;
#pragma unroll
    for (int n = 0; n < kMine; ++n) {
      float k[8];
      unpack8(from[n * kThreads], k);
      scores[n] = octet_sum(dot(q, k));
      if (n * 4 * kWarps + group >= count) scores[n] = -INFINITY;
      largest = fmaxf(largest, scores[n]);
    }
    ring_.release();
    const float fade = largest == -INFINITY ? 1 : power_of_two(top - largest);
    top = largest;
    total *= fade;
#pragma unroll
    for (float& sum : sums) sum *= fade;
    from = reinterpret_cast<const uint4*>(ring_.memory(0)) + lane_ + warp_ * 32;
    ring_.wait(0);
#pragma unroll
    for (int n = 0; n < kMine; ++n) {
      if (n * 4 * kWarps + group >= count) break;
      float v[8];
      unpack8(from[n * kThreads], v);
      const float weight = power_of_two(scores[n] - top);
      total += weight;
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[j] = fmaf(weight, v[j], sums[j]);
    }
    ring_.release();
  }
  merge_groups(top, total, sums);
  store_answer(answers_ + warp_ * G::kAnswer, top, total, sums);
  if (warp_ > 0) return tell_first_warp<kParts>();
  wait_for_warps<kParts>();
  float2 stats[kWarps], sum{0, 0};
  float highest = -INFINITY, all = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    stats[i] = *reinterpret_cast<const float2*>(answers_ + i * G::kAnswer + kHead);
    highest = fmaxf(highest, stats[i].x);
  }
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    const float factor = highest == -INFINITY ? 0 : power_of_two(stats[i].x - highest);
    const float2 part = *reinterpret_cast<const float2*>(answers_ + i * G::kAnswer + 2 * lane_);
    all = fmaf(factor, stats[i].y, all);
    sum.x = fmaf(factor, part.x, sum.x);
    sum.y = fmaf(factor, part.y, sum.y);
  }
  const float factor = all > 0 ? 1 / all : 0;
  write_unit(units_ + G::kPartUnits + static_cast<int>(blockIdx.x) * 32 + lane_,
             pack(sum.x * factor, sum.y * factor), tag_);
  if (lane_ == 0)
    write_unit(units_ + G::kScaleUnits + blockIdx.x,
               __float_as_uint(all > 0 ? highest + log2f(all) : -INFINITY), tag_);
}

// The shares of each head of the warp's piece, together.
template <class G>
__device__ void Row<G>::combine_shares() {
  constexpr int kS = G::kSplits, kWarpHeads = G::kSlice / kHead;
  static_assert(kWarpHeads * kS == 16);
  const uint64_t* first = units_ + G::kPartUnits + warp_ * 16 * 32;
  const auto at = [&](int i) {  // share i % kS of a head
    return first + ((2 * (i / kS) + lane_ / 16) * kS + i % kS) * 32 + lane_ % 16 * 2;
  };
  uint2 parts[G::kPacks * kS];
  uint64_t scale;
  bool there;
  do {
    scale = read_unit(units_ + G::kScaleUnits + warp_ * 16 + lane_ % 16);
    there = read_pieces(at, tag_, parts) && tagged(scale, tag_);
  } while (!__all_sync(~0U, there));
  const float mine = __uint_as_float(static_cast<uint32_t>(scale));
  float top = mine;
#pragma unroll
  for (int offset = 1; offset < kS; offset *= 2)
    top = fmaxf(top, __shfl_xor_sync(~0U, top, offset));
  float factor = power_of_two(mine - top), all = factor;
#pragma unroll
  for (int offset = 1; offset < kS; offset *= 2) all += __shfl_xor_sync(~0U, all, offset);
  factor /= all;
#pragma unroll
  for (int i = 0; i < G::kPacks; ++i) {
    float sums[4] = {};
#pragma unroll
    for (int n = 0; n < kS; ++n)
      add_weighted(sums, __shfl_sync(~0U, factor, (2 * i + lane_ / 16) * kS + n),
                   parts[i * kS + n]);
    piece(piece_, i) = {pack(sums[0], sums[1]), pack(sums[2], sums[3])};
  }
  __syncwarp();
  load_operand<false>(piece_);
}

}  // namespace megabyte::cuda::stack
