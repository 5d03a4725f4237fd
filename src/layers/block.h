// One pre-norm Transformer block (section 2.3 of the paper; arXiv:2305.07185): forward, backward
// and one decoding step.
//
//   sum1 = x + delta          the pending branch of whatever came before joins the residual stream
//   a    = out(attention(qkv(norm1(sum1))))
//   sum2 = sum1 + a
//   next = (sum2, down(act(up(norm2(sum2)))))     the last branch stays pending
//
// A branch is added by the norm that reads the sum next, so that residual addition, dropout and
// norm are one pass over memory.
#pragma once

#include <string>

#include "base/arena.h"
#include "model/config.h"
#include "model/parameters.h"
#include "ops/ops.h"

namespace megabyte {

struct BlockWeights {
  Weight norm1_weight, norm1_bias, qkv_weight, qkv_bias, out_weight, out_bias;
  Weight norm2_weight, norm2_bias, up_weight, up_bias, down_weight, down_bias;
};
BlockWeights bind_block(const Parameters& parameters, const std::string& prefix);

// What a block needs to know of its stage and of the batch.
struct BlockShape {
  AttentionShape attention;
  int64_t ffn = 0;
  Activation activation = Activation::gelu;
  double eps = 1e-5;
  bool rotary = false;
  DType compute = DType::f32;
  DType residual = DType::f32;

  int64_t dim() const { return attention.dim(); }
  int64_t positions() const { return attention.sequences * attention.length; }  // rows coming in
  int64_t out_positions() const {
    return attention.sequences * attention.queries;
  }  // rows going out
};

// A residual stream with one branch still to be added: the vector at a position is x + delta.
struct Pending {
  Tensor x;         // (M, D) residual dtype
  Tensor delta;     // (M, D) compute dtype; may be none
  Dropout dropout;  // of delta
};

// What forward leaves for backward. In inference one instance serves all blocks of a stage.
struct BlockActivations {
  Tensor sum1, norm1, mean1, rstd1, qkv, attended, stats;
  Tensor sliced;  // (out_positions, D): the last positions of sum1, where only those go on
                  // (Perceiver AR)
  Tensor sum2, norm2, mean2, rstd2, pre, hidden;
};
// Without `backward`, statistics and pre-activations are left out. With `keep_sum1` false, sum1 is
// not made (it is kept elsewhere: activation checkpointing).
BlockActivations plan_block(Arena& arena, const BlockShape& shape, bool backward, bool make_sum1);

// Scratch that all blocks of a stage share.
struct BlockScratch {
  Tensor delta;         // (M, D) the pending branch
  Tensor dsum, ddelta;  // running gradients: of the residual stream, of the pending branch
  Tensor dnorm, dqkv, dattended, dhidden, dsliced;
};
BlockScratch plan_block_scratch(Arena& arena, const BlockShape& shape, bool backward);

// Runs the block on `in`; `out_dropout` is for its two branches (streams `stream` and `stream` +
// 1). The result lives in `activations` and `scratch`.
Pending block_forward(Backend& backend, const BlockShape& shape, const BlockWeights& weights,
                      const Pending& in, const Dropout& branches,
                      const BlockActivations& activations, const BlockScratch& scratch);
// Takes d(sum2) in scratch.dsum and d(delta2) in scratch.ddelta, leaves the same of the block's
// input there (ddelta only if `in.delta` existed), and adds to the weights' gradients.
void block_backward(Backend& backend, const BlockShape& shape, const BlockWeights& weights,
                    bool in_has_delta, const Dropout& in_dropout, const Dropout& branches,
                    const BlockActivations& activations, const BlockScratch& scratch);

}  // namespace megabyte
