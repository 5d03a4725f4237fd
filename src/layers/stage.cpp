#include "layers/stage.h"

namespace megabyte {
namespace {

// Dropout of the i-th block that runs in a stage: encoder blocks first.
Dropout block_dropout(const Dropout& first, size_t block) {
  Dropout d = first;
  d.stream += 2 * block;
  return d;
}

EmbedShape embed_shape(const StageShape& shape, bool shift) {
  return {shape.batch * shape.sequences, shape.length, shape.patch, shape.embed_dim(), shift};
}

PlaceShape place_shape(const StageShape& shape, bool shift) {
  return {shape.batch * shape.sequences, shape.length, shape.dim, shift};
}

// Encoded or convolved vectors are shifted along the whole batch row, across patch borders.
PlaceShape row_shift(const StageShape& shape) {
  return {shape.batch, shape.sequences * shape.length, shape.dim, true};
}

// The vectors of the stage's own positions, from bytes or from the child's pooled vectors.
void enter(const StageRun& run, const Tensor& tokens, const Tensor& child_pooled, bool shift,
           const Tensor& out) {
  const StageWeights& w = run.weights;
  const Tensor pad = shift ? w.pad.value : Tensor{};
  if (run.shape.pooled)
    run.backend.place_forward(place_shape(run.shape, shift), child_pooled, w.positions.value, pad,
                              out);
  else
    run.backend.embed_forward(embed_shape(run.shape, shift), tokens, w.embed.value,
                              w.positions.value, pad, out);
}

void enter_backward(const StageRun& run, const Tensor& tokens, const Tensor& dout, bool shift,
                    const Tensor& child_dpooled) {
  const StageWeights& w = run.weights;
  const Tensor dpad = shift ? w.pad.grad : Tensor{};
  if (run.shape.pooled)
    run.backend.place_backward(place_shape(run.shape, shift), dout, child_dpooled, w.positions.grad,
                               dpad);
  else
    run.backend.embed_backward(embed_shape(run.shape, shift), tokens, dout, w.embed.grad,
                               w.positions.grad, dpad);
}

// h += gelu(conv(h)) over bytes, once for each width; the convolution is a product over unfolded
// windows.
Tensor convolve(const StageRun& run) {
  const StageShape& shape = run.shape;
  const int64_t row = shape.length * shape.patch, e = shape.embed_dim();
  Tensor h = run.activations.embedded.view({shape.positions() * shape.patch, e});
  for (size_t j = 0; j < shape.convolutions.size(); ++j) {
    const ConvolutionActivations& a = run.activations.convolutions[j];
    const ConvolutionWeights& w = run.weights.patch_encoder[j];
    run.backend.unfold(h, row, w.width, a.unfolded);
    run.backend.linear_forward(a.unfolded, w.weight.value.view({e, e * w.width}), w.bias.value,
                               Activation::gelu, a.pre, a.activated);
    run.backend.add(h, a.activated, a.out);
    h = a.out;
  }
  return h.view({shape.positions(), shape.dim});
}

void convolve_backward(const StageRun& run, const Tensor& dh) {
  const StageShape& shape = run.shape;
  const StageActivations& act = run.activations;
  const int64_t row = shape.length * shape.patch, e = shape.embed_dim();
  const Tensor dh_bytes = dh.view({shape.positions() * shape.patch, e});
  for (size_t j = shape.convolutions.size(); j-- > 0;) {
    const ConvolutionActivations& a = act.convolutions[j];
    const ConvolutionWeights& w = run.weights.patch_encoder[j];
    const Shape matrix{e, e * w.width};
    const Tensor dunfolded = Tensor{act.dunfolded.data, act.dunfolded.dtype, a.unfolded.shape};
    run.backend.convert(dh_bytes, act.dactivated);
    run.backend.activation_backward(act.dactivated, Activation::gelu, a.pre, act.dconvolved);
    run.backend.linear_backward_weight(act.dconvolved, a.unfolded, w.weight.grad.view(matrix),
                                       w.bias.grad);
    run.backend.linear_backward_input(act.dconvolved, w.weight.value.view(matrix), Activation::none,
                                      {}, dunfolded);
    run.backend.unfold_backward(dunfolded, row, w.width, dh_bytes);
  }
}

}  // namespace

void stage_up(const StageRun& run, const Tensor& tokens, const Tensor& child_pooled) {
  const StageShape& shape = run.shape;
  const StageWeights& w = run.weights;
  const StageActivations& a = run.activations;
  Backend& backend = run.backend;
  if (!a.embedded) {
    enter(run, tokens, child_pooled, true, a.x);
    return;
  }
  enter(run, tokens, child_pooled, false, a.embedded);
  if (!shape.encodes) {
    backend.place_forward(row_shift(shape), convolve(run), {}, w.pad.value, a.x);
    return;
  }
  Pending h{a.embedded, {}, {}};
  for (size_t i = 0; i < w.encoder.size(); ++i) {
    h = block_forward(backend, shape.encoder_block, w.encoder[i], h, block_dropout(run.dropout, i),
                      a.encoder[i], a.scratch);
    if (run.observer) run.observer(true, i, a.encoder[i], h);
  }
  backend.residual_norm_forward(h.x, h.delta, h.dropout, w.encoder_norm_weight.value,
                                w.encoder_norm_bias.value, shape.eps, a.encoded, a.encoded_norm,
                                a.encoded_xhat, a.encoded_rstd);
  backend.linear_forward(a.encoded_norm, w.to_parent.value, {}, Activation::none, {}, a.pooled);
  backend.place_forward(row_shift(shape), a.encoded, {}, w.pad.value, a.x);
}

void stage_down(const StageRun& run, const Tensor& parent_out) {
  const StageShape& shape = run.shape;
  const StageWeights& w = run.weights;
  const StageActivations& a = run.activations;
  Pending h{a.x, {}, {}};
  if (parent_out) {
    run.backend.linear_forward(parent_out, w.from_parent.value, {}, Activation::none, {},
                               a.scratch.delta);
    h.delta = a.scratch.delta;
  }
  for (size_t i = 0; i < w.blocks.size(); ++i) {
    h = block_forward(run.backend, shape.blocks[i], w.blocks[i], h,
                      block_dropout(run.dropout, w.encoder.size() + i), a.blocks[i], a.scratch);
    if (run.observer) run.observer(false, i, a.blocks[i], h);
  }
  run.backend.residual_norm_forward(h.x, h.delta, h.dropout, w.norm_weight.value, w.norm_bias.value,
                                    shape.eps, h.delta ? a.final_sum : Tensor{}, a.out,
                                    a.final_xhat, a.final_rstd);
}

namespace {

// Backward through blocks that ran one after another, the first of them on a stream with or without
// a pending branch. Gradients enter and leave through the stage's scratch. Activations that were
// not kept are computed again from the block's kept input: the same operations on the same numbers.
void blocks_backward(const StageRun& run, const std::vector<BlockShape>& shapes,
                     const std::vector<BlockWeights>& weights,
                     const std::vector<BlockActivations>& activations, size_t first_dropout,
                     bool first_pending) {
  const BlockScratch& scratch = run.activations.scratch;
  for (size_t i = weights.size(); i-- > 0;) {
    const BlockActivations& a = activations[i];
    const Dropout branches = block_dropout(run.dropout, first_dropout + i);
    if (run.activations.recompute)
      block_activate(run.backend, shapes[i], weights[i], {a.sum1, {}, {}}, branches, a, scratch);
    const Dropout before =
        i == 0 ? Dropout{} : second_branch(block_dropout(run.dropout, first_dropout + i - 1));
    block_backward(run.backend, shapes[i], weights[i], i > 0 || first_pending, before, branches, a,
                   scratch);
  }
}

// The last branch that was pending when a stage's blocks (or encoder) ended.
Dropout last_branch(const StageRun& run, size_t first_dropout, size_t count) {
  return count == 0 ? Dropout{}
                    : second_branch(block_dropout(run.dropout, first_dropout + count - 1));
}

}  // namespace

void stage_down_backward(const StageRun& run, const Tensor& tokens, const Tensor& parent_out,
                         const Tensor& dparent_out, const Tensor& child_dpooled) {
  const StageShape& shape = run.shape;
  const StageWeights& w = run.weights;
  const StageActivations& a = run.activations;
  Backend& backend = run.backend;
  const int64_t Q = shape.out_positions();
  const size_t encoders = w.encoder.size();
  const bool pending = parent_out || !w.blocks.empty();
  const Dropout last = last_branch(run, encoders, w.blocks.size());

  backend.residual_norm_backward(a.dout, a.final_xhat, a.final_rstd, w.norm_weight.value, last,
                                 false, a.scratch.dsum.slice(0, Q),
                                 pending ? written_gradient(a.scratch, last, Q) : Tensor{},
                                 w.norm_weight.grad, w.norm_bias.grad);
  blocks_backward(run, shape.blocks, w.blocks, a.blocks, encoders, static_cast<bool>(parent_out));
  if (parent_out) {
    backend.linear_backward(branch_gradient(a.scratch, {}, shape.positions()), parent_out,
                            w.from_parent.value, w.from_parent.grad, {}, dparent_out);
  }
  const Tensor dx = a.scratch.dsum;
  if (shape.encodes) {
    backend.place_backward(row_shift(shape), dx, a.dunshifted, {}, w.pad.grad);
  } else if (a.embedded) {
    backend.place_backward(row_shift(shape), dx, a.dunshifted, {}, w.pad.grad);
    convolve_backward(run, a.dunshifted);
    enter_backward(run, tokens, a.dunshifted, false, child_dpooled);
  } else {
    enter_backward(run, tokens, dx, true, child_dpooled);
  }
}

void stage_up_backward(const StageRun& run, const Tensor& tokens, const Tensor& child_dpooled) {
  const StageShape& shape = run.shape;
  const StageWeights& w = run.weights;
  const StageActivations& a = run.activations;
  Backend& backend = run.backend;
  backend.linear_backward(a.dpooled, a.encoded_norm, w.to_parent.value, w.to_parent.grad, {},
                          a.scratch.dnorm);
  // The gradient of the encoded vectors' other use, as the decoder's input, joins here.
  backend.copy_rows(a.dunshifted, shape.dim, a.scratch.dsum, shape.dim, shape.positions(),
                    shape.dim);
  const Dropout last = last_branch(run, 0, w.encoder.size());
  backend.residual_norm_backward(a.scratch.dnorm, a.encoded_xhat, a.encoded_rstd,
                                 w.encoder_norm_weight.value, last, true, a.scratch.dsum,
                                 written_gradient(a.scratch, last, shape.positions()),
                                 w.encoder_norm_weight.grad, w.encoder_norm_bias.grad);
  blocks_backward(run, std::vector<BlockShape>(w.encoder.size(), shape.encoder_block), w.encoder,
                  a.encoder, 0, false);
  enter_backward(run, tokens, a.scratch.dsum, false, child_dpooled);
}

}  // namespace megabyte
