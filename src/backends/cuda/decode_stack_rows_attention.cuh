// Attention of decode_stack_rows.cuh: a block has whole pairs of a row and a head. Eight lanes have
// a key, 8 elements each.
#pragma once

#include "backends/cuda/decode_stack_rows_compute.cuh"

namespace megabyte::cuda::stack {

// Of the cache, for the warp's pair.
template <class G>
__device__ void Rows<G>::load_window(const Layer& w, Window& window) const {
  const Pair<G> pair(warp_);
  const bool mine = warp_ < G::kPairs && pair.row < call_.batch;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = lane_ / 8 + 4 * i;
    const int64_t at = pair.cache(call_.capacity) + key * kHead + lane_ % 8 * 8;
    const bool there = mine && key < call_.position;
    window.keys[i] = there ? keys_early(w.keys + at) : uint4{};
    window.values[i] = there ? keys_early(w.values + at) : uint4{};
  }
}

// The lane's elements of q, k and v.
template <class G>
__device__ void Rows<G>::await_qkv(Pair<G> pair, uint4 (&qkv)[3]) const {
  const uint4* at = units_ + G::kQkvUnits + (pair.head * 8 + lane_ % 8) * kRows + pair.row;
  bool there;
  do {
#pragma unroll
    for (int i = 0; i < 3; ++i) qkv[i] = read_unit(at + i * G::kVector);
    there = is_there(qkv[0]) && is_there(qkv[1]) && is_there(qkv[2]);
  } while (!__all_sync(~0U, there));
}
// The new key and value to the cache, by one group of lanes.
template <class G>
__device__ void Rows<G>::keep(const Layer& w, Pair<G> pair, const uint4 (&qkv)[3]) const {
  if (lane_ >= 8) return;
  const int64_t at = pair.cache(call_.capacity) + int64_t{call_.position} * kHead + lane_ * 8;
  *reinterpret_cast<uint4*>(w.keys + at) = qkv[1];
  *reinterpret_cast<uint4*>(w.values + at) = qkv[2];
}

// A short window: a warp for each pair.
template <class G>
__device__ void Rows<G>::attend(const Layer& w, const Window& window) {
  static_assert(kWarps % G::kPairs == 0 && kShortWindow == 8);
  const Pair<G> pair(warp_);
  uint4 answer{};
  if (warp_ < G::kPairs && pair.row < call_.batch) {
    uint4 qkv[3];
    await_qkv(pair, qkv);
    keep(w, pair, qkv);
    float q[8], scores[2], sums[8] = {}, total = 0;
    unpack8(qkv[0], q);
    bool newest[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = lane_ / 8 + 4 * i;
      newest[i] = key == call_.position;
      float k[8];
      unpack8(newest[i] ? qkv[1] : window.keys[i], k);
      const float score = octet_sum(dot(q, k)) * kScoreScale;
      scores[i] = key <= call_.position ? score : -INFINITY;
    }
    float top = fmaxf(scores[0], scores[1]);
    top = fmaxf(top, __shfl_xor_sync(~0U, top, 8));
    top = fmaxf(top, __shfl_xor_sync(~0U, top, 16));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float weight = power_of_two(scores[i] - top);
      float v[8];
      unpack8(newest[i] ? qkv[2] : window.values[i], v);
      total += weight;
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[e] = fmaf(weight, v[e], sums[e]);
    }
    const float factor = __fdividef(1, groups_sum(total));
#pragma unroll
    for (float& sum : sums) sum = groups_sum(sum) * factor;
    answer = pack8(sums);
  }
  if (warp_ < G::kPairs && lane_ < 8) write_unit(units_ + pair.attended() + lane_, answer);
}

// A long window: kShares warps for each pair, whose keys come through the ring.
template <class G>
__device__ void Rows<G>::attend(const Layer& w) {
  constexpr int kShares = kWarps / G::kPairs, kKeys = G::kKeys / G::kPairs;
  constexpr int kAtOnce = 4 * kShares, kMine = kKeys / kAtOnce;
  const Pair<G> pair(warp_ / kShares);
  const int share = warp_ % kShares;
  const int group = share * 4 + lane_ / 8;  // has key `group` of kAtOnce, and so on
  const bool there = pair.row < call_.batch;
  // Scores of 4 keys, 8 lanes' worth, are one product on the tensor cores, of a column for each
  // half of a key and a row for each half of the query: of lane l < 8 the half l / 4, others none.
  uint4 query{};
  float top = -INFINITY, total = 0, sums[8] = {};
  if (there) {
    uint4 qkv[3];
    await_qkv(pair, qkv);
    if (lane_ < 8) query = qkv[0];
    if (share == 0) {
      keep(w, pair, qkv);
      float q[8], k[8];
      unpack8(qkv[0], q);
      unpack8(qkv[1], k);
      const float score = octet_sum(dot(q, k)) * kScoreScale;
      if (lane_ < 8) {
        top = score;
        total = 1;
        unpack8(qkv[2], sums);
      }
    }
    __syncwarp();
  }
  const int mine = warp_ / kShares * kKeys * 8 + share * 32 + lane_;
  for (int first = 0; first < call_.position && pairs_of_block<G>(call_.batch) > 0;
       first += kKeys) {
    const int count = call_.position - first;
    float scores[kMine], largest = top;
    ring_.wait(0);
    if (there) {
      const auto* from = reinterpret_cast<const uint4*>(ring_.memory(0)) + mine;
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        const uint4 k = from[n * 8 * kAtOnce];
        float halves[4] = {};
        mma(halves, query.x, 0, query.y, 0, k.x, k.y);
        mma(halves, query.z, 0, query.w, 0, k.z, k.w);
        float score = lane_ < 4 ? halves[0] : halves[1];
        score += __shfl_xor_sync(~0U, score, 4);
        score = __shfl_sync(~0U, score, lane_ / 8) * kScoreScale;
        scores[n] = n * kAtOnce + group < count ? score : -INFINITY;
        largest = fmaxf(largest, scores[n]);
      }
    }
    ring_.release();
    const float fade = largest == -INFINITY ? 1 : power_of_two(top - largest);
    top = largest;
    total *= fade;
#pragma unroll
    for (float& sum : sums) sum *= fade;
    ring_.wait(0);
    if (there) {
      const auto* from = reinterpret_cast<const uint4*>(ring_.memory(0)) + mine;
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        uint4 values{};
        if (n * kAtOnce + group < count) values = from[n * 8 * kAtOnce];
        float v[8];
        unpack8(values, v);
        const float weight = top == -INFINITY ? 0 : power_of_two(scores[n] - top);
        total += weight;
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[e] = fmaf(weight, v[e], sums[e]);
      }
    }
    ring_.release();
  }
  merge_groups(top, total, sums);
  wait_for_warps<kAll>();  // the sums' memory is free
  float* answer = sums_ + warp_ * G::kAnswer;
  store_answer(answer, top, total, sums);
  wait_for_warps<kAll>();
  if (share != 0 || lane_ >= 8) return;
  uint4 attended{};
  if (there) {
    float all = 0, most = -INFINITY;
    float2 stats[kShares];
#pragma unroll
    for (int i = 0; i < kShares; ++i) {
      stats[i] = *reinterpret_cast<const float2*>(answer + i * G::kAnswer + kHead);
      most = fmaxf(most, stats[i].x);
    }
#pragma unroll
    for (float& sum : sums) sum = 0;
#pragma unroll
    for (int i = 0; i < kShares; ++i) {
      const float factor = power_of_two(stats[i].x - most);  // there is a newest key
      all = fmaf(factor, stats[i].y, all);
#pragma unroll
      for (int e = 0; e < 8; ++e)
        sums[e] = fmaf(factor, answer[i * G::kAnswer + 8 * lane_ + e], sums[e]);
    }
    const float factor = 1 / all;
#pragma unroll
    for (float& sum : sums) sum *= factor;
    attended = pack8(sums);
  }
  write_unit(units_ + pair.attended() + lane_, attended);
}

}  // namespace megabyte::cuda::stack
