// Linear attention with rotary positions and a cross window. Its feature map lies between turning
// and product, phi(R_i q) . phi(R_j k), so that not only i - j counts: a key stands at another
// angle for every patch that looks back at it. Positions count from the start of the asking patch;
// keys before it turn by negative angles. So each patch asks on its own, in a copy of the rows that
// it sees, turned for it, where it is plain linear attention whose last positions ask. No backend
// needs to know of this case.
#pragma once

#include "base/arena.h"
#include "ops/ops.h"

namespace megabyte {

// One patch of every batch row; without `backward` the gradients are left out. N sequences of a
// patch, at most W keys seen by one.
struct WindowScratch {
  Tensor qkv, attended;    // (N * W, 3 D), (N * length, D) compute dtype
  Tensor dqkv, dattended;  // their gradients
  Tensor sum;              // (M, 3 D) master dtype: gradients that windows add up
};
WindowScratch plan_window_scratch(Arena& arena, const AttentionShape& shape, DType compute,
                                  bool backward);

// As Backend::attention_forward() and attention_backward() with rotary positions, on rows that are
// not turned; `shape` has every position ask. `stats` are for window_attention_backward() alone.
void window_attention_forward(Backend& backend, const AttentionShape& shape, const Tensor& qkv,
                              const Tensor& out, const Tensor& stats, const WindowScratch& scratch);
void window_attention_backward(Backend& backend, const AttentionShape& shape, const Tensor& qkv,
                               const Tensor& out, const Tensor& stats, const Tensor& dout,
                               const Tensor& dqkv, const WindowScratch& scratch);

}  // namespace megabyte
