// All blocks of a stage at one new position of 2 to 16 rows.
//
// As for one row (decode_stack_row.cuh), blocks of threads own rows of every matrix and their warps
// share the summed index, but the tensor cores multiply the weights with 8 or 16 rows at once, and
// what the blocks tell each other is as much as the weights of a small matrix. So
//  - vectors travel without tags, 8 bf16 of one row to a unit, and a warp of its own clears them
//    once all have read them;
//  - while it waits, a warp looks at 32 units of its part; once one is there it reads all, and then
//    what is missing again;
//  - the residual stream stays, in f32, with the blocks that have its columns; the others norm what
//    those give them, rounded to bf16;
//  - of `down` a block has four times as many rows of a quarter of the summed index, so that it
//    reads a quarter of the hidden units; four blocks exchange their parts of the sums.
//
// Here: where everything is, and what the helping warps do, which send for weights and sweep.
#pragma once

#include "backends/cuda/decode_stack_exchange.cuh"
#include "backends/cuda/decode_stack_ring.cuh"

namespace megabyte::cuda::stack {

// kTiles * 8 rows.
template <int D_, int kTiles_>
struct RowsGeometry : Deal<D_> {
  using Deal<D_>::D, Deal<D_>::kSlice, Deal<D_>::kUp;
  static constexpr int kTiles = kTiles_, kRows = 8 * kTiles;
  static constexpr int kSlots = D == 1024 ? 11 : 5, kOnTheirWay = 1;
  static constexpr int kPairs = Deal<D_>::kHeads * kRows / kBlocks;  // of row and head, of a block
  // Shared memory after the ring: sums of a warp for each row of x (odd multiples of 8 floats keep
  // the banks apart), the norm's weight and bias, statistics.
  template <int kSlots>
  static constexpr int kSumPitch = 8 * (kSlots | 1);
  static constexpr int kSums = kWarps * kRows * kSumPitch<kUp>;  // floats
  static constexpr int kAnswer = kHead + 4;                      // floats of a warp's answer
  static_assert(kPairs * kWarps * kAnswer <= kSums);
  static constexpr int kShared =
      kSlots * Deal<D_>::kSlotBytes + 4 * kSums + 2 * 4 * D + 8 * kWarps * kRows + 16 * kSlots;
  // Where the vectors are in the exchange, in units: those of a Transformer block in one of two
  // halves, which take turns; then what goes out of the last one, and how many there were.
  static constexpr int kVector = D / 8 * kRows;
  static constexpr int kInputUnits = 0, kQkvUnits = kVector, kAttendedUnits = 4 * kVector,
                       kMiddleUnits = 5 * kVector, kHiddenUnits = 6 * kVector,
                       kPartUnits = 10 * kVector, kHalf = 18 * kVector, kEndUnits = 2 * kHalf,
                       kPassed = kEndUnits + kVector;
  static constexpr int kExchangeBytes = 16 * (kPassed + 1), kClear = 0xFF;
};

// Pair i of a block's rows and heads.
template <class G>
struct Pair {
  int row, head;
  __device__ explicit Pair(int i) {
    const int pair = static_cast<int>(blockIdx.x) + i * kBlocks;
    row = pair / G::kHeads;
    head = pair % G::kHeads;
  }
  // Of its answer in the exchange.
  __device__ int attended() const { return G::kAttendedUnits + (head * G::kRows + row) * 8; }
  // Of its keys and values.
  __device__ int64_t cache(int capacity) const {
    return (int64_t{row} * G::kHeads + head) * capacity * kHead;
  }
};

// Those whose row is one of `batch`: the first.
template <class G>
__device__ int pairs_of_block(int batch) {
  int count = 0;
  while (count < G::kPairs && Pair<G>(count).row < batch) ++count;
  return count;
}

// The order in which the others use the weights.
template <class G, bool kLong>
__device__ void send_weights_of_rows(const Call& call, Sender<G> sender) {
  constexpr int D = G::D;
  const int block = static_cast<int>(blockIdx.x);
  for (int l = 0; l < call.count; ++l) {
    const Layer& w = call.layers[l];
    sender.send_rows(w.qkv + int64_t{block} * 8 * G::kQkv * D, D, G::kQkv);
    if constexpr (kLong) {
      if (l == 0) wait_for_previous();  // it may have written keys
      const int64_t at = Pair<G>(0).cache(call.capacity);
      if (const int pairs = pairs_of_block<G>(call.batch))
        sender.template send_cache<G::kPairs>(w.keys + at, w.values + at, call.position,
                                              Pair<G>(1).cache(call.capacity) - at, pairs);
    }
    sender.send_rows(w.out + int64_t{block} * 8 * G::kOut * D, D, G::kOut);
    sender.send_rows(w.up + int64_t{block} * 8 * G::kUp * D, D, G::kUp);
    sender.send_rows(w.down + int64_t{block / 4} * 8 * G::kUp * 4 * D + block % 4 * D, 4 * D,
                     G::kUp);
  }
}

// Where the vectors of the n-th Transformer block since the exchange was made are.
template <class G>
__device__ uint4* half_of(const Call& call, uint32_t n) {
  return static_cast<uint4*>(call.exchange) + n % 2 * G::kHalf;
}
template <class G>
__device__ uint32_t passed(const Call& call) {
  uint32_t n;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
               : "=r"(n)
               : "l"(static_cast<uint4*>(call.exchange) + G::kPassed));
  return n;
}

// Clears what this block of threads told the others, in a warp of its own.
//
// Once the input of a Transformer block is there as a whole, all have read everything of the one
// before. Others look at its half again only after this block told them `middle`, before which the
// computing warps wait for this one.
template <class G>
__device__ void sweep(const Call& call) {
  wait_for_previous();
  const uint32_t first = passed<G>(call);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int own = static_cast<int>(blockIdx.x) * G::kOut * G::kRows;
  const auto clear = [&](uint4* at, int count) {
    for (int i = lane; i < count; i += 32) write_unit(at + i, kAbsent);
  };
  for (int l = 0; l < call.count; ++l) {
    wait_for_warps<kWithSweeper, kThreads + 32>();
    uint4* half = half_of<G>(call, first + l - 1);
    const auto clear_own = [&](int vector, int vectors) {
      clear(half + vector + vectors * own, vectors * G::kOut * G::kRows);
    };
    clear_own(G::kInputUnits, 1);
    clear_own(G::kQkvUnits, 3);
    clear_own(G::kMiddleUnits, 1);
    clear_own(G::kHiddenUnits, 4);
    clear_own(G::kPartUnits, 8);
    for (int i = 0; i < G::kPairs; ++i) clear(half + Pair<G>(i).attended(), 8);
    if (l == 0) clear(static_cast<uint4*>(call.exchange) + G::kEndUnits + own, G::kOut * G::kRows);
    __threadfence();
    wait_for_warps<kWithSweeper, kThreads + 32>();
  }
}

}  // namespace megabyte::cuda::stack
