#include "layers/block_decode.h"

namespace megabyte {

BlockCache plan_block_cache(Arena& arena, const BlockShape& shape, int64_t batch, int64_t capacity,
                            bool running_state) {
  const AttentionShape& at = shape.attention;
  if (running_state)
    return {.keys = {},
            .values = {},
            .state = arena.make({batch, at.heads, at.head_dim + 1, at.head_dim},
                                master_dtype(shape.compute))};
  const Shape cached{batch, at.heads, capacity, at.head_dim};
  return {.keys = arena.make(cached, shape.compute),
          .values = arena.make(cached, shape.compute),
          .state = {}};
}

BlockDecodeScratch plan_block_decode(Arena& arena, const BlockShape& shape, int64_t batch) {
  const int64_t D = shape.dim();
  return {.sum = arena.make({batch, D}, shape.residual),
          .norm = arena.make({batch, D}, shape.compute),
          .qkv = arena.make({batch, 3 * D}, shape.compute),
          .attended = arena.make({batch, D}, shape.compute),
          .hidden = arena.make({batch, shape.ffn}, shape.compute),
          .delta = arena.make({batch, D}, shape.compute)};
}

Pending block_decode(Backend& backend, const BlockShape& shape, const BlockStep& step,
                     const BlockWeights& w, const BlockCache& cache, const Pending& in,
                     const BlockDecodeScratch& s) {
  const AttentionShape& at = shape.attention;
  backend.residual_norm_forward(in.x, in.delta, {}, w.norm1_weight.value, w.norm1_bias.value,
                                shape.eps, in.delta ? s.sum : Tensor{}, s.norm, {}, {});
  const Tensor x = in.delta ? s.sum : in.x;
  backend.linear_forward(s.norm, w.qkv_weight.value, w.qkv_bias.value, Activation::none, {}, s.qkv);
  if (shape.rotary) backend.rotary(s.qkv, at.heads, at.head_dim, 1, step.rotary_position, false);
  if (cache.state)
    backend.linear_attention_decode(step.attention, s.qkv, cache.state, s.attended);
  else
    backend.attention_decode(step.attention, s.qkv, cache.keys, cache.values, s.attended);
  backend.linear_forward(s.attended, w.out_weight.value, w.out_bias.value, Activation::none, {},
                         s.delta);
  backend.residual_norm_forward(x, s.delta, {}, w.norm2_weight.value, w.norm2_bias.value, shape.eps,
                                s.sum, s.norm, {}, {});
  backend.linear_forward(s.norm, w.up_weight.value, w.up_bias.value, shape.activation, {},
                         s.hidden);
  backend.linear_forward(s.hidden, w.down_weight.value, w.down_bias.value, Activation::none, {},
                         s.delta);
  return {s.sum, s.delta, {}};
}

}  // namespace megabyte
