// One decoding step of a Transformer block: a new position in each of B rows that go in step, with
// cached keys and values. The same numbers as block_forward() at that position.
#pragma once

#include "layers/block.h"

namespace megabyte {

// What a block remembers of earlier positions: keys and values, or, where linear attention never
// forgets within a sequence, their running sum. Where every patch turns its window anew
// (window_attention.h), a sequence's sum begins with what is before it, kept as it was before
// turning; row position p lives in slot p % capacity.
struct BlockCache {
  Tensor keys, values;  // (B, heads, capacity, head_dim) compute dtype
  Tensor state;         // (B, heads, head_dim + 1, head_dim) master dtype
  Tensor earlier;       // (capacity, B, 3 D) compute dtype: rows of qkv

  Tensor earlier_at(int64_t row_position) const;  // (B, 3 D)
};
bool keeps_running_sum(const BlockShape& shape);
// Positions that a stage's blocks remember at most; `row` is the shape of one whole row.
int64_t cache_capacity(const BlockShape& row);
BlockCache plan_block_cache(Arena& arena, const BlockShape& shape, int64_t batch, int64_t capacity);

// For Backend::decode_stack().
DecodeBlock decode_block(const BlockWeights& weights, const BlockCache& cache);

// Where the new position stands.
struct BlockStep {
  DecodeShape attention;
  int64_t rotary_position;
  int64_t row_position;
};

struct BlockDecodeScratch {
  Tensor sums[2];                      // (B, D) residual dtype: used in turn
  Tensor norm, qkv, attended, hidden;  // (B, D), (B, 3 D), (B, D), (B, ffn) compute dtype
  Tensor delta;                        // (B, D) compute dtype

  // Where the sum of x and a branch goes: not to x.
  const Tensor& sum_of(const Tensor& x) const { return sums[x.data == sums[0].data ? 1 : 0]; }
};
BlockDecodeScratch plan_block_decode(Arena& arena, const BlockShape& shape, int64_t batch);

// Makes the running sum ready for a sequence that starts at row_position.
void begin_sequence(Backend& backend, const BlockShape& shape, int64_t row_position,
                    const BlockCache& cache, const BlockDecodeScratch& scratch);

// Runs the block on `in` (B, D). The result lives in `scratch`; in.x is only read unless it is one
// of scratch.sums.
Pending block_decode(Backend& backend, const BlockShape& shape, const BlockStep& step,
                     const BlockWeights& weights, const BlockCache& cache, const Pending& in,
                     const BlockDecodeScratch& scratch);

}  // namespace megabyte
