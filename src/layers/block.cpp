#include "layers/block.h"

#include <algorithm>

namespace megabyte {

BlockWeights bind_block(const Parameters& p, const std::string& pre) {
  return {p[pre + "norm1.weight"],         p[pre + "norm1.bias"],
          p[pre + "attention.qkv.weight"], p[pre + "attention.qkv.bias"],
          p[pre + "attention.out.weight"], p[pre + "attention.out.bias"],
          p[pre + "norm2.weight"],         p[pre + "norm2.bias"],
          p[pre + "ffn.up.weight"],        p[pre + "ffn.up.bias"],
          p[pre + "ffn.down.weight"],      p[pre + "ffn.down.bias"]};
}

BlockActivations plan_block(Arena& arena, const BlockShape& shape, bool backward) {
  const int64_t M = shape.positions(), Q = shape.out_positions(), D = shape.dim();
  const DType compute = shape.compute, master = master_dtype(compute);
  BlockActivations a;
  a.norm1 = arena.make({M, D}, compute);
  a.qkv = arena.make({M, 3 * D}, compute);
  a.attended = arena.make({Q, D}, compute);
  if (Q != M) a.sliced = arena.make({Q, D}, shape.residual);
  a.norm2 = arena.make({Q, D}, compute);
  a.hidden = arena.make({Q, shape.ffn}, compute);
  if (backward) {
    a.xhat1 = arena.make({M, D}, compute);
    a.rstd1 = arena.make({M}, master);
    a.stats = arena.make({Q * shape.attention.heads}, master);
    a.xhat2 = arena.make({Q, D}, compute);
    a.rstd2 = arena.make({Q}, master);
    if (shape.activation == Activation::gelu) a.pre = arena.make({Q, shape.ffn}, compute);
  }
  return a;
}

BlockScratch plan_block_scratch(Arena& arena, const BlockShape& shape, bool backward) {
  const int64_t M = shape.positions(), Q = shape.out_positions(), D = shape.dim();
  BlockScratch s;
  s.delta = arena.make({M, D}, shape.compute);
  if (backward) {
    s.dsum = arena.make({M, D}, shape.residual_gradient);
    s.ddelta = arena.make({M, D}, shape.compute);
    s.dnorm = s.delta;
    s.dattended = s.delta.slice(0, Q);
    const int64_t qkv = M * 3 * D, hidden = Q * shape.ffn;
    const Tensor wide = arena.make({std::max(qkv, hidden)}, shape.compute);
    s.dqkv = wide.slice(0, qkv).view({M, 3 * D});
    s.dhidden = wide.slice(0, hidden).view({Q, shape.ffn});
    if (Q != M) s.dsliced = arena.make({Q, D}, shape.residual_gradient);
  }
  if (shape.turns_windows())
    s.window = plan_window_scratch(arena, shape.attention, shape.compute, backward);
  return s;
}

namespace {

// The last `queries` rows of each sequence of `all`, as a view of strided rows starting at the
// first of them.
Tensor last_rows(const BlockShape& shape, const Tensor& all) {
  return all.slice(shape.attention.length - shape.attention.queries,
                   all.shape[0] - (shape.attention.length - shape.attention.queries));
}

void rotate(Backend& backend, const BlockShape& shape, const Tensor& qkv, bool inverse) {
  // Where patches see each other positions count along the whole batch row: only differences matter
  // to a product of q and k, and keys of earlier patches then need no rotation of their own.
  const AttentionShape& at = shape.attention;
  const int64_t length = at.cross > 0 ? at.row_sequences * at.length : at.length;
  if (shape.rotary) backend.rotary(qkv, at.heads, at.head_dim, length, 0, inverse);
}

void attend(Backend& backend, const BlockShape& shape, const BlockActivations& a,
            const WindowScratch& window) {
  if (shape.turns_windows()) {
    window_attention_forward(backend, shape.attention, a.qkv, a.attended, a.stats, window);
    return;
  }
  rotate(backend, shape, a.qkv, false);
  backend.attention_forward(shape.attention, a.qkv, a.attended, a.stats);
}

void attend_backward(Backend& backend, const BlockShape& shape, const BlockActivations& a,
                     const Tensor& dattended, const Tensor& dqkv, const WindowScratch& window) {
  if (shape.turns_windows()) {
    window_attention_backward(backend, shape.attention, a.qkv, a.attended, a.stats, dattended, dqkv,
                              window);
    return;
  }
  backend.attention_backward(shape.attention, a.qkv, a.attended, a.stats, dattended, dqkv);
  rotate(backend, shape, dqkv, true);
}

// A block up to its second branch, which may be left out.
void run_block(Backend& backend, const BlockShape& shape, const BlockWeights& w, const Pending& in,
               const Dropout& branches, const BlockActivations& a, const BlockScratch& scratch,
               const Tensor& branch) {
  const AttentionShape& at = shape.attention;
  const int64_t Q = shape.out_positions(), D = shape.dim();
  const Tensor delta = scratch.delta.slice(0, Q);

  backend.residual_norm_forward(in.x, in.delta, in.dropout, w.norm1_weight.value,
                                w.norm1_bias.value, shape.eps, in.delta ? a.sum1 : Tensor{},
                                a.norm1, a.xhat1, a.rstd1);
  backend.linear_forward(a.norm1, w.qkv_weight.value, w.qkv_bias.value, Activation::none, {},
                         a.qkv);
  attend(backend, shape, a, scratch.window);
  backend.linear_forward(a.attended, w.out_weight.value, w.out_bias.value, Activation::none, {},
                         delta);

  Tensor x = in.delta ? a.sum1 : in.x;
  if (at.queries != at.length) {
    backend.copy_rows(last_rows(shape, x), at.length * D, a.sliced, at.queries * D, at.sequences,
                      at.queries * D);
    x = a.sliced;
  }
  backend.residual_norm_forward(x, delta, branches, w.norm2_weight.value, w.norm2_bias.value,
                                shape.eps, a.sum2, a.norm2, a.xhat2, a.rstd2);
  backend.feed_forward({w.up_weight.value, w.up_bias.value, w.down_weight.value, w.down_bias.value},
                       shape.activation, a.norm2, a.pre, a.hidden, branch);
}

}  // namespace

void block_activate(Backend& backend, const BlockShape& shape, const BlockWeights& w,
                    const Pending& in, const Dropout& branches, const BlockActivations& a,
                    const BlockScratch& scratch) {
  run_block(backend, shape, w, in, branches, a, scratch, {});
}

Pending block_forward(Backend& backend, const BlockShape& shape, const BlockWeights& w,
                      const Pending& in, const Dropout& branches, const BlockActivations& a,
                      const BlockScratch& scratch) {
  const Tensor delta = scratch.delta.slice(0, shape.out_positions());
  run_block(backend, shape, w, in, branches, a, scratch, delta);
  return {a.sum2, delta, second_branch(branches)};
}

void block_backward(Backend& backend, const BlockShape& shape, const BlockWeights& w,
                    bool in_has_delta, const Dropout& in_dropout, const Dropout& branches,
                    const BlockActivations& a, const BlockScratch& scratch) {
  const AttentionShape& at = shape.attention;
  // Scratch is as large as the stage's largest block.
  const int64_t M = shape.positions(), Q = shape.out_positions(), D = shape.dim();
  const Tensor dsum_in = scratch.dsum.slice(0, M);
  const Tensor dnorm1 = scratch.dnorm.slice(0, M), dqkv = scratch.dqkv.slice(0, M);
  const Tensor dsum = scratch.dsum.slice(0, Q);
  const Tensor ddelta = branch_gradient(scratch, branches, Q);
  const Tensor dnorm2 = scratch.dnorm.slice(0, Q);

  // delta2 = down(act(up(norm2)))
  backend.feed_forward_backward(
      {w.up_weight.value, w.up_bias.value, w.down_weight.value, w.down_bias.value},
      shape.activation, ddelta, a.norm2, a.pre, a.hidden, scratch.dhidden,
      {w.up_weight.grad, w.up_bias.grad, w.down_weight.grad, w.down_bias.grad}, dnorm2);
  backend.residual_norm_backward(dnorm2, a.xhat2, a.rstd2, w.norm2_weight.value, branches, true,
                                 dsum, written_gradient(scratch, branches, Q), w.norm2_weight.grad,
                                 w.norm2_bias.grad);

  // delta1 = out(attention(qkv(norm1)))
  backend.linear_backward(ddelta, a.attended, w.out_weight.value, w.out_weight.grad,
                          w.out_bias.grad, scratch.dattended);
  attend_backward(backend, shape, a, scratch.dattended, dqkv, scratch.window);
  backend.linear_backward(dqkv, a.norm1, w.qkv_weight.value, w.qkv_weight.grad, w.qkv_bias.grad,
                          dnorm1);
  if (at.queries != at.length) {  // only the last positions of each sequence went on
    backend.copy_rows(dsum, at.queries * D, scratch.dsliced, at.queries * D, at.sequences,
                      at.queries * D);
    backend.zero(dsum_in);
    backend.copy_rows(scratch.dsliced, at.queries * D, last_rows(shape, dsum_in), at.length * D,
                      at.sequences, at.queries * D);
  }
  backend.residual_norm_backward(dnorm1, a.xhat1, a.rstd1, w.norm1_weight.value, in_dropout, true,
                                 dsum_in,
                                 in_has_delta ? written_gradient(scratch, in_dropout, M) : Tensor{},
                                 w.norm1_weight.grad, w.norm1_bias.grad);
}

}  // namespace megabyte
