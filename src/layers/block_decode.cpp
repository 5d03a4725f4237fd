#include "layers/block_decode.h"

#include <algorithm>

namespace megabyte {

Tensor BlockCache::earlier_at(int64_t row_position) const {
  return earlier.slice(row_position % earlier.shape[0], 1)
      .view({earlier.shape[1], earlier.shape[2]});
}

bool keeps_running_sum(const BlockShape& shape) {
  return shape.attention.linear && (shape.attention.cross == 0 || shape.turns_windows());
}

int64_t cache_capacity(const BlockShape& row) {
  const AttentionShape& at = row.attention;
  return std::min(row.turns_windows() ? at.cross : at.length + at.cross, row.positions());
}

BlockCache plan_block_cache(Arena& arena, const BlockShape& shape, int64_t batch,
                            int64_t capacity) {
  const AttentionShape& at = shape.attention;
  BlockCache cache;
  if (keeps_running_sum(shape)) {
    cache.state =
        arena.make({batch, at.heads, at.head_dim + 1, at.head_dim}, master_dtype(shape.compute));
    if (shape.turns_windows())
      cache.earlier = arena.make({capacity, batch, 3 * at.dim()}, shape.compute);
    return cache;
  }
  const Shape cached{batch, at.heads, capacity, at.head_dim};
  cache.keys = arena.make(cached, shape.compute);
  cache.values = arena.make(cached, shape.compute);
  return cache;
}

DecodeBlock decode_block(const BlockWeights& w, const BlockCache& cache) {
  return {.norm1_weight = w.norm1_weight.value,
          .norm1_bias = w.norm1_bias.value,
          .qkv_weight = w.qkv_weight.value,
          .qkv_bias = w.qkv_bias.value,
          .out_weight = w.out_weight.value,
          .out_bias = w.out_bias.value,
          .norm2_weight = w.norm2_weight.value,
          .norm2_bias = w.norm2_bias.value,
          .up_weight = w.up_weight.value,
          .up_bias = w.up_bias.value,
          .down_weight = w.down_weight.value,
          .down_bias = w.down_bias.value,
          .keys = cache.keys,
          .values = cache.values};
}

BlockDecodeScratch plan_block_decode(Arena& arena, const BlockShape& shape, int64_t batch) {
  const int64_t D = shape.dim();
  return {.sums = {arena.make({batch, D}, shape.residual), arena.make({batch, D}, shape.residual)},
          .norm = arena.make({batch, D}, shape.compute),
          .qkv = arena.make({batch, 3 * D}, shape.compute),
          .attended = arena.make({batch, D}, shape.compute),
          .hidden = arena.make({batch, shape.ffn}, shape.compute),
          .delta = arena.make({batch, D}, shape.compute)};
}

void begin_sequence(Backend& backend, const BlockShape& shape, int64_t row_position,
                    const BlockCache& cache, const BlockDecodeScratch& s) {
  if (!cache.state) return;
  backend.zero(cache.state);
  if (!cache.earlier) return;
  const AttentionShape& at = shape.attention;
  const DecodeShape step{.batch = s.qkv.shape[0], .heads = at.heads, .head_dim = at.head_dim};
  for (int64_t p = std::max<int64_t>(0, row_position - at.cross); p < row_position; ++p) {
    backend.convert(cache.earlier_at(p), s.qkv);
    backend.rotary(s.qkv, at.heads, at.head_dim, 1, row_position - p, true);
    backend.linear_attention_decode(step, s.qkv, cache.state, s.attended);
  }
}

Pending block_decode(Backend& backend, const BlockShape& shape, const BlockStep& step,
                     const BlockWeights& w, const BlockCache& cache, const Pending& in,
                     const BlockDecodeScratch& s) {
  const AttentionShape& at = shape.attention;
  const Tensor sum1 = s.sum_of(in.x);
  backend.norm_linear(in.x, in.delta, w.norm1_weight.value, w.norm1_bias.value, shape.eps,
                      w.qkv_weight.value, w.qkv_bias.value, Activation::none, sum1, s.norm, s.qkv);
  const Tensor x = in.delta ? sum1 : in.x;
  if (cache.earlier) backend.convert(s.qkv, cache.earlier_at(step.row_position));
  if (shape.rotary) backend.rotary(s.qkv, at.heads, at.head_dim, 1, step.rotary_position, false);
  if (cache.state)
    backend.linear_attention_decode(step.attention, s.qkv, cache.state, s.attended);
  else
    backend.attention_decode(step.attention, s.qkv, cache.keys, cache.values, s.attended);
  backend.linear_forward(s.attended, w.out_weight.value, w.out_bias.value, Activation::none, {},
                         s.delta);
  const Tensor sum2 = s.sum_of(x);
  backend.norm_linear(x, s.delta, w.norm2_weight.value, w.norm2_bias.value, shape.eps,
                      w.up_weight.value, w.up_bias.value, shape.activation, sum2, s.norm, s.hidden);
  backend.linear_forward(s.hidden, w.down_weight.value, w.down_bias.value, Activation::none, {},
                         s.delta);
  return {sum2, s.delta, {}};
}

}  // namespace megabyte
