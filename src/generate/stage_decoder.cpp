#include "generate/stage_decoder.h"

#include <algorithm>

namespace megabyte {
namespace {

std::vector<DecodeBlock> decode_blocks(const std::vector<BlockWeights>& weights,
                                       const std::vector<BlockCache>& caches) {
  std::vector<DecodeBlock> blocks;
  for (size_t i = 0; i < weights.size(); ++i) blocks.push_back(decode_block(weights[i], caches[i]));
  return blocks;
}

}  // namespace

StageDecoder::StageDecoder(const Hierarchy& model, int stage, int64_t batch, Arena& arena)
    : backend_(model.backend()),
      weights_(model.stages()[static_cast<size_t>(stage)]),
      batch_(batch) {
  const Config& config = model.config();
  // The shape of one whole row: it says how many positions the stage has there.
  const BatchPlan row_plan{.batch = 1, .length = config.context()};
  const DType compute = model.compute(), residual = backend_.residual_dtype(compute);
  const StageShape row = make_stage_shape(config, stage, row_plan, compute, residual);
  shape_ = row.encoder_block;
  n_ = row.length;
  patch_ = row.patch;
  embed_dim_ = row.embed_dim();
  latents_ = config.latents;
  per_patch_ = config.patch_bytes(0) / patch_;
  coarsest_ = stage == 0;
  encodes_ = row.encodes;
  capacity_ = cache_capacity(shape_);

  const int64_t D = row.dim, rows = batch * n_;
  for (size_t i = 0; i < weights_.encoder.size(); ++i)
    encoder_.push_back(plan_block_cache(arena, shape_, batch, capacity_));
  for (size_t i = 0; i < weights_.blocks.size(); ++i) {
    const bool latent = latents_ > 0 && i > 0;  // past the latents the window takes over
    const int64_t capacity = latent ? std::min(capacity_, latents_) : capacity_;
    blocks_.push_back(plan_block_cache(arena, shape_, batch, capacity));
  }
  scratch_ = plan_block_decode(arena, shape_, batch);
  if (!row.convolutions.empty())
    convolutions_.emplace(weights_.patch_encoder, batch, patch_, embed_dim_, compute, residual,
                          arena);
  if (latents_ > 0 && latents_ < n_ && blocks_.size() > 1)
    window_.emplace(shape_, static_cast<int64_t>(blocks_.size()), batch, latents_, n_, arena);
  if (!shape_.rotary && !keeps_running_sum(shape_) && latents_ == 0) {
    encoder_stack_ = decode_blocks(weights_.encoder, encoder_);
    block_stack_ = decode_blocks(weights_.blocks, blocks_);
  }
  start_ = arena.make({batch, D}, residual);
  last_ = arena.make({batch, D}, residual);
  out_ = arena.make({batch, D}, compute);
  if (stage > 0) {
    conditions_ = arena.make({rows, D}, compute);
    condition_ = arena.make({batch, D}, compute);
  }
  if (encodes_) {
    encoded_ = arena.make({rows, D}, compute);
    encoded_one_ = arena.make({batch, D}, compute);
    pooled_ = arena.make({rows, row.parent_slice}, compute);
  }
}

void StageDecoder::reset() {
  next_ = 0;
  if (convolutions_) convolutions_->reset(backend_);
  // A shifted sequence of one position is its pad.
  backend_.place_forward({batch_, 1, shape_.dim(), true}, last_, {}, weights_.pad.value, start_);
}

void StageDecoder::condition(const Tensor& parent_out) {
  const int64_t slice = parent_out.size() / (batch_ * n_);
  backend_.linear_forward(parent_out.view({batch_ * n_, slice}), weights_.from_parent.value, {},
                          Activation::none, {}, conditions_);
}

Tensor StageDecoder::row(const Tensor& t, const Tensor& packed, int64_t i) const {
  if (batch_ == 1) return t.slice(i, 1);
  const int64_t width = t.shape[1];
  backend_.copy_rows(t.slice(i, t.shape[0] - i), n_ * width, packed, width, batch_, width);
  return packed;
}

BlockStep StageDecoder::block_step() const {
  const AttentionShape& at = shape_.attention;
  DecodeShape decode{.batch = batch_,
                     .heads = at.heads,
                     .head_dim = at.head_dim,
                     .capacity = capacity_,
                     .position = next_ % n_,
                     .first = 0,
                     .linear = at.linear};
  if (at.cross > 0 && !keeps_running_sum(shape_)) {  // a ring over the whole row
    decode.position = next_;
    decode.first = std::max<int64_t>(0, next_ - next_ % n_ - at.cross);
  }
  return {.attention = decode, .rotary_position = decode.position, .row_position = next_};
}

void StageDecoder::run(const std::vector<BlockWeights>& weights,
                       const std::vector<BlockCache>& caches,
                       const std::vector<DecodeBlock>& blocks, const Weight& norm_weight,
                       const Weight& norm_bias, Pending h, Tensor sum, const Tensor& y) const {
  const DecodeStack stack{blocks, shape_.activation, shape_.eps, norm_weight.value,
                          norm_bias.value};
  if (!blocks.empty() && backend_.decode_stack(block_step().attention, stack, h.x, h.delta,
                                               sum ? sum : scratch_.sum_of(h.x), y))
    return;
  h = run_each(weights, caches, h);
  if (!sum && h.delta) sum = scratch_.sum_of(h.x);
  backend_.residual_norm_forward(h.x, h.delta, {}, norm_weight.value, norm_bias.value, shape_.eps,
                                 sum, y, {}, {});
}

Pending StageDecoder::run_each(const std::vector<BlockWeights>& weights,
                               const std::vector<BlockCache>& caches, Pending h) const {
  BlockStep step = block_step();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (starts_sequence()) begin_sequence(backend_, shape_, next_, caches[i], scratch_);
    if (caches[i].keys) step.attention.capacity = caches[i].keys.shape[2];
    h = block_decode(backend_, shape_, step, weights[i], caches[i], h, scratch_);
    if (i == 0 && window_ && &weights == &weights_.blocks) {
      backend_.add(h.x, h.delta, h.x);
      h.delta = {};
      window_->store(backend_, h.x, next_);
      if (next_ >= latents_) return window_->run(backend_, weights, next_);
    }
  }
  return h;
}

void StageDecoder::step() {
  const bool start = encodes_ ? next_ == 0 : starts_sequence();
  Pending h{start ? start_ : last_, {}, {}};
  if (conditions_) h.delta = row(conditions_, condition_, next_ % n_);
  run(weights_.blocks, blocks_, block_stack_, weights_.norm_weight, weights_.norm_bias, h, {},
      out_);
}

Tensor StageDecoder::position_rows() const {
  const Tensor& table = weights_.positions.value;
  return table ? table.slice(next_ % n_ * patch_, patch_) : Tensor{};
}

void StageDecoder::take_bytes(const Tensor& bytes) {
  backend_.embed_forward({batch_, 1, patch_, embed_dim_, false}, bytes, weights_.embed.value,
                         position_rows(), {}, last_);
  complete();
}

void StageDecoder::take_pooled(const Tensor& pooled) {
  backend_.place_forward({batch_, 1, shape_.dim(), false}, pooled, position_rows(), {}, last_);
  complete();
}

void StageDecoder::complete() {
  if (convolutions_)
    convolutions_->run(backend_, weights_.patch_encoder, last_.view({batch_ * patch_, embed_dim_}));
  if (encodes_) {
    const Tensor normed = batch_ == 1 ? encoded_.slice(next_ % n_, 1) : encoded_one_;
    run(weights_.encoder, encoder_, encoder_stack_, weights_.encoder_norm_weight,
        weights_.encoder_norm_bias, {last_, {}, {}}, last_, normed);
    if (batch_ > 1) {
      const int64_t D = shape_.dim(), i = next_ % n_;
      backend_.copy_rows(normed, D, encoded_.slice(i, encoded_.shape[0] - i), n_ * D, batch_, D);
    }
  }
  ++next_;
}

Tensor StageDecoder::pool() {
  backend_.linear_forward(encoded_, weights_.to_parent.value, {}, Activation::none, {}, pooled_);
  return pooled_.view({batch_, pooled_.size() / batch_});
}

}  // namespace megabyte
