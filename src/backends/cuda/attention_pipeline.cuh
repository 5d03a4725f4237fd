// How the work of a long row's kernels is dealt and how its tiles arrive: in each block one thread
// sends for tiles with the copy engine, ahead of the warpgroups that use them; mbarriers say what
// has arrived and what may be overwritten. Blocks stay for as many shares of the work as there are,
// so that the first tiles of the next share arrive while one ends.
#pragma once

#include <algorithm>

#include "backends/cuda/attention_warpgroup.cuh"
#include "backends/cuda/check.h"
#include "backends/cuda/copies.cuh"
#include "backends/cuda/tensor_map.h"

namespace megabyte::cuda {

// A share is a run of neighbouring positions of one head of one batch row.
struct LongShares {
  int heads, shares;  // of all rows; of a head
  int together;       // heads that are dealt together, so that their tiles stay in the L2 cache
  bool last_first;    // the heaviest shares come first

  LongShares(const AttentionRows& rows, int positions, int per_share, bool last_first)
      : heads(rows.heads * rows.rows),
        shares((positions + per_share - 1) / per_share),
        last_first(last_first) {
    constexpr int64_t kCached = int64_t{32} << 20;
    const int64_t of_head = int64_t{rows.keys()} * rows.head_dim * 2 * int64_t{sizeof(bf16)};
    together = static_cast<int>(std::clamp<int64_t>(kCached / of_head, 1, heads));
  }
  // As many blocks as the device runs at once, one on each multiprocessor.
  unsigned blocks() const {
    static const int multiprocessors = [] {
      int device = 0, count = 0;
      check_cuda(cudaGetDevice(&device), "attention");
      check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
                 "attention");
      return count;
    }();
    return static_cast<unsigned>(std::min(multiprocessors, heads * shares));
  }

  struct Share {
    int row, head, first;
  };
  // Calls body(share) for this block's shares: every other round goes backwards through the blocks,
  // so that nobody gets the heavier one each time.
  template <class Body>
  __device__ void for_each(const AttentionRows& rows, int per_share, Body&& body) const {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    for (int round = 0;; ++round) {
      const int index = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
      if (index >= heads * shares) return;
      const int first_head = index / (together * shares) * together;
      const int count = min(together, heads - first_head), i = index - first_head * shares;
      const int head = first_head + i % count, share = i / count;
      body(Share{head / rows.heads, head % rows.heads,
                 (last_first ? shares - 1 - share : share) * per_share});
    }
  }
};

// Positions from `position` on of a batch row, D columns from `column` on.
template <int kRows, int D>
__device__ void send(const SharedTile<kRows, D>& to, const CUtensorMap& from, int column,
                     int position, int row, uint32_t arrival) {
#pragma unroll
  for (int panel = 0; panel < D / kMapColumns; ++panel)
#pragma unroll
    for (int r = 0; r < kRows; r += kMapRows)
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
          "[%1, {%2, %3, %4}], [%5];" ::"r"(
              to.address + static_cast<uint32_t>(panel) * SharedTile<kRows, D>::kPanel +
              static_cast<uint32_t>(r) * 128),
          "l"(&from), "r"(column + panel * kMapColumns), "r"(position + r), "r"(row), "r"(arrival)
          : "memory");
}

__device__ inline float4 load_float4(uint32_t from) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from));
  return v;
}

// Tiles in the order of their use, in kSlots places in turn.
template <int kSlots>
struct Ring {
  static constexpr uint32_t kBytes = 2 * kSlots * 8;
  uint32_t barriers;
  uint32_t slot = 0, phase = 0;

  __device__ uint32_t full(uint32_t of) const { return barriers + of * 8; }
  __device__ uint32_t empty(uint32_t of) const { return barriers + (kSlots + of) * 8; }
  __device__ void init(int consumers) const {
    for (uint32_t i = 0; i < kSlots; ++i) {
      init_arrivals(full(i), 1);
      init_arrivals(empty(i), consumers);
    }
  }
  __device__ uint32_t advance() {
    const uint32_t now = slot;
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
    return now;
  }
  // The producer: a slot that nobody uses any more and that waits for `bytes`.
  __device__ uint32_t refill(int bytes) {
    wait_for_arrivals(empty(slot), phase ^ 1);
    arrive_expecting(full(slot), bytes);
    return advance();
  }
  // The consumers: the next tile, once it is there; each thread gives it back (no slower than one
  // for its warp, and needs no order among the lanes).
  __device__ uint32_t take() {
    wait_for_arrivals(full(slot), phase);
    return advance();
  }
  __device__ void release(uint32_t of) const { arrive(empty(of)); }
};

// Two warpgroups issue products in turns, so that the tensor cores work for one while the other
// takes exponentials. Three fill the tensor cores by themselves, and turns would slow them down.
template <int kGroups>
struct Turns {
  static constexpr bool kTaken = kGroups == 2;
  int group;

  __device__ explicit Turns(int group) : group(group) {
    if (group == 1) pass();  // the first group's first turn
  }
  __device__ void wait() const {
    if constexpr (kTaken) asm volatile("bar.sync %0, 256;" ::"r"(group + 1) : "memory");
  }
  __device__ void pass() const {
    if constexpr (kTaken) asm volatile("bar.arrive %0, 256;" ::"r"((group + 1) % 2 + 1) : "memory");
  }
};

// A block launched with the registers for kGroups consuming warpgroups and one that sends for
// tiles: they are dealt anew.
template <int kGroups>
struct Registers {
  static constexpr int kConsumer = kGroups == 2 ? 240 : 160, kProducer = kGroups == 2 ? 24 : 32;
  __device__ static void take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumer));
  }
  __device__ static void give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kProducer));
  }
};

// Writes row i (g or g + 8 of a warp's sums) in 16-byte pieces: the four lanes that share the row
// trade words until each has neighbouring ones.
template <int kSums>
__device__ void store_row(const float (&sums)[kSums], int i, float factor, bf16* to, bool valid) {
  const unsigned c = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kSums / 4; j += 4) {
    uint32_t w[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float* pair = &sums[4 * (j + k) + 2 * i];
      w[k] = pack(pair[0] * factor, pair[1] * factor);
    }
#pragma unroll
    for (unsigned distance = 1; distance < 4; distance *= 2)
#pragma unroll
      for (unsigned k = 0; k < 4; ++k) {
        if ((k & distance) != 0) continue;
        const bool upper = (c & distance) != 0;
        const uint32_t got = __shfl_xor_sync(~0U, upper ? w[k] : w[k + distance], distance);
        w[k] = upper ? got : w[k];
        w[k + distance] = upper ? w[k + distance] : got;
      }
    if (valid) *reinterpret_cast<uint4*>(to + 8 * j + 8 * c) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

}  // namespace megabyte::cuda
