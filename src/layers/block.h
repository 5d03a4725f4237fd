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
#include "layers/window_attention.h"
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
  DType residual_gradient = DType::f32;  // only training needs it

  int64_t dim() const { return attention.dim(); }
  // Are keys turned anew for every patch that sees them (window_attention.h)?
  bool turns_windows() const { return rotary && attention.linear && attention.cross > 0; }
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

// What forward leaves for backward, and the residual stream on its way. In inference one instance
// serves all blocks of a stage.
struct BlockActivations {
  Tensor sum1, norm1, xhat1, rstd1, qkv, attended, stats;
  Tensor sliced;  // (out_positions, D): the last positions of sum1, where only those go on
                  // (Perceiver AR)
  Tensor sum2, norm2, xhat2, rstd2, pre, hidden;
};
// All but sum1 and sum2, which the stage decides: backward needs neither. Without `backward`, what
// only that needs is left out.
BlockActivations plan_block(Arena& arena, const BlockShape& shape, bool backward);

// Scratch that all blocks of a stage share.
struct BlockScratch {
  Tensor delta;         // (M, D) the pending branch
  Tensor dsum, ddelta;  // running gradients: of the residual stream, of the pending branch
  // Gradients within a block. No two of one line are needed at a time, nor the first while a branch
  // is pending: each line is one memory.
  Tensor dnorm, dattended;  // (M, D), (out_positions, D): that of `delta`
  Tensor dqkv, dhidden;     // (M, 3 D), (out_positions, ffn)
  Tensor dsliced;           // (out_positions, D)
  WindowScratch window;     // where turns_windows()
};
// The gradient of a branch with this dropout. Where nothing is dropped and types agree, it is that
// of the stream, and residual_norm_backward() has nothing else to write.
inline bool shares_gradient(const BlockScratch& scratch, const Dropout& dropout) {
  return dropout.rate == 0 && scratch.ddelta.dtype == scratch.dsum.dtype;
}
inline Tensor branch_gradient(const BlockScratch& scratch, const Dropout& dropout, int64_t rows) {
  return (shares_gradient(scratch, dropout) ? scratch.dsum : scratch.ddelta).slice(0, rows);
}
inline Tensor written_gradient(const BlockScratch& scratch, const Dropout& dropout, int64_t rows) {
  return shares_gradient(scratch, dropout) ? Tensor{} : scratch.ddelta.slice(0, rows);
}
BlockScratch plan_block_scratch(Arena& arena, const BlockShape& shape, bool backward);

// Runs the block on `in`. `branches` is the dropout of its two branches, on streams `stream` and
// `stream` + 1. What goes on is in activations.sum2 and, still pending, in scratch.delta.
Pending block_forward(Backend& backend, const BlockShape& shape, const BlockWeights& weights,
                      const Pending& in, const Dropout& branches,
                      const BlockActivations& activations, const BlockScratch& scratch);

// The part of it that leaves everything in `activations`: all but the last product, `down`.
void block_activate(Backend& backend, const BlockShape& shape, const BlockWeights& weights,
                    const Pending& in, const Dropout& branches, const BlockActivations& activations,
                    const BlockScratch& scratch);

// Takes the gradients of what the block handed on in scratch.dsum and branch_gradient() (the first
// out_positions() rows), leaves those of its input there, and adds to the weights' gradients.
// `in_dropout` is that of the branch that was pending at the input; without one (in_has_delta
// false) its gradient is left undefined.
void block_backward(Backend& backend, const BlockShape& shape, const BlockWeights& weights,
                    bool in_has_delta, const Dropout& in_dropout, const Dropout& branches,
                    const BlockActivations& activations, const BlockScratch& scratch);

// The second of a block's two dropout streams.
inline Dropout second_branch(Dropout branches) {
  ++branches.stream;
  return branches;
}

}  // namespace megabyte
