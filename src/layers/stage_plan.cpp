#include "layers/stage.h"

#include <fmt/format.h>

#include <algorithm>

namespace megabyte {

StageWeights bind_stage(const Parameters& parameters, const Config& config, int s) {
  const StageConfig& stage = config.stages[static_cast<size_t>(s)];
  const std::string pre = fmt::format("stages.{}.", s);
  StageWeights w;
  if (!config.encodes(s + 1)) w.embed = parameters[pre + "embed.weight"];
  if (stage.positions == Positions::learned) w.positions = parameters[pre + "positions.weight"];
  w.pad = parameters[pre + "pad"];
  if (s == 0) {
    for (size_t j = 0; j < config.patch_encoder.size(); ++j) {
      const std::string conv = fmt::format("{}patch_encoder.{}.", pre, j);
      w.patch_encoder.push_back(
          {parameters[conv + "weight"], parameters[conv + "bias"], config.patch_encoder[j]});
    }
  } else {
    w.from_parent = parameters[pre + "from_parent.weight"];
    if (stage.encoder_layers > 0) {
      w.to_parent = parameters[pre + "to_parent.weight"];
      w.encoder_norm_weight = parameters[pre + "encoder_norm.weight"];
      w.encoder_norm_bias = parameters[pre + "encoder_norm.bias"];
    }
  }
  for (int64_t i = 0; i < stage.encoder_layers; ++i)
    w.encoder.push_back(bind_block(parameters, fmt::format("{}encoder.{}.", pre, i)));
  for (int64_t i = 0; i < stage.layers; ++i)
    w.blocks.push_back(bind_block(parameters, fmt::format("{}blocks.{}.", pre, i)));
  w.norm_weight = parameters[pre + "norm.weight"];
  w.norm_bias = parameters[pre + "norm.bias"];
  return w;
}

namespace {

AttentionShape attention_of(const StageConfig& config, const StageShape& shape) {
  return {.sequences = shape.batch * shape.sequences,
          .length = shape.length,
          .queries = shape.length,
          .heads = config.heads,
          .head_dim = config.head_dim(),
          .row_sequences = shape.sequences,
          .cross = config.cross_patch,
          .linear = config.attention == AttentionKind::linear};
}

}  // namespace

StageShape make_stage_shape(const Config& config, int s, const BatchPlan& plan, DType compute,
                            DType residual, DType residual_gradient) {
  const StageConfig& stage = config.stages[static_cast<size_t>(s)];
  const int64_t P0 = config.patch_bytes(0), K = (plan.length + P0 - 1) / P0;
  StageShape shape;
  shape.batch = plan.batch;
  shape.sequences = s == 0 ? 1 : K;
  for (int parent = 1; parent < s; ++parent)
    shape.sequences *= config.stages[static_cast<size_t>(parent)].length;
  shape.length = s == 0 ? K : stage.length;
  shape.patch = config.patch_bytes(s);
  shape.dim = stage.dim;
  shape.parent_slice = s == 0 ? 0 : config.stages[static_cast<size_t>(s - 1)].dim / stage.length;
  shape.encodes = config.encodes(s);
  shape.pooled = config.encodes(s + 1);
  shape.eps = config.norm_eps;
  shape.compute = compute;
  shape.residual = residual;
  shape.residual_gradient = residual_gradient;
  shape.encoder_layers = stage.encoder_layers;
  if (s == 0) shape.convolutions = config.patch_encoder;

  const BlockShape block{.attention = attention_of(stage, shape),
                         .ffn = stage.ffn,
                         .activation = config.activation,
                         .eps = config.norm_eps,
                         .rotary = stage.positions == Positions::rotary,
                         .compute = compute,
                         .residual = residual,
                         .residual_gradient = residual_gradient};
  shape.encoder_block = block;
  shape.blocks.assign(static_cast<size_t>(stage.layers), block);
  if (config.latents > 0 &&
      config.latents < shape.length) {  // Perceiver AR: the last positions go on
    for (BlockShape& b : shape.blocks) b.attention.length = b.attention.queries = config.latents;
    if (!shape.blocks.empty()) shape.blocks.front().attention.length = shape.length;
  }
  return shape;
}

StageActivations plan_stage(Arena& arena, Arena& scratch_arena, const StageShape& shape,
                            const BatchPlan& plan) {
  const int64_t M = shape.positions(), D = shape.dim, Q = shape.out_positions();
  const DType compute = shape.compute, residual = shape.residual, master = master_dtype(compute);
  const bool backward = plan.training, keep = plan.training && !plan.checkpoint;
  StageActivations a;
  a.recompute = backward && !keep;

  // A block's activations: its own when all are kept; else one set in scratch serves every block,
  // and only the blocks' inputs (sum1) are kept for recomputation. `first` is what the first block
  // starts from. The stream is added up in one place: that of `first` where all is kept, since
  // backward does not need it; else in scratch.
  const auto plan_blocks = [&](const std::vector<BlockShape>& shapes, const Tensor& first,
                               bool first_pending) {
    std::vector<BlockActivations> blocks;
    if (shapes.empty()) return blocks;
    const Tensor stream = keep ? first : scratch_arena.make(first.shape, residual);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const bool same = i > 0 && shapes[i].attention.length == shapes[i - 1].attention.length;
      if (keep || !same)
        blocks.push_back(plan_block(keep ? arena : scratch_arena, shapes[i], backward));
      else
        blocks.push_back(blocks.back());
      BlockActivations& block = blocks.back();
      if (i == 0 && (backward || !first_pending))
        block.sum1 = first;
      else
        block.sum1 = a.recompute ? arena.make({shapes[i].positions(), D}, residual)
                                 : stream.slice(0, shapes[i].positions());
      block.sum2 = stream.slice(0, shapes[i].out_positions());
    }
    return blocks;
  };

  const bool on_bytes = !shape.convolutions.empty();
  if (shape.encodes || on_bytes) a.embedded = arena.make({M, D}, residual);
  if (on_bytes) {
    const int64_t bytes = M * shape.patch, e = shape.embed_dim();
    int64_t widest = 0;
    for (const int64_t width : shape.convolutions) {
      widest = std::max(widest, width);
      a.convolutions.push_back({.unfolded = arena.make({bytes, e * width}, compute),
                                .pre = backward ? arena.make({bytes, e}, compute) : Tensor{},
                                .activated = arena.make({bytes, e}, compute),
                                .out = arena.make({bytes, e}, residual)});
    }
    if (backward) {
      a.dconvolved = arena.make({bytes, e}, compute);
      a.dactivated = arena.make({bytes, e}, compute);
      a.dunfolded = arena.make({bytes, e * widest}, compute);
    }
  }
  if (shape.encodes) {
    a.encoder = plan_blocks(
        std::vector<BlockShape>(static_cast<size_t>(shape.encoder_layers), shape.encoder_block),
        a.embedded, false);
    a.encoded = a.encoder.back().sum2;
    a.encoded_norm = arena.make({M, D}, compute);
    a.pooled = arena.make({M, shape.parent_slice}, compute);
    if (backward) {
      a.encoded_xhat = arena.make({M, D}, compute);
      a.encoded_rstd = arena.make({M}, master);
      a.dpooled = arena.make({M, shape.parent_slice}, compute);
    }
  }
  a.x = arena.make({M, D}, residual);
  if (a.embedded && backward) a.dunshifted = {a.x.data, shape.residual_gradient, a.x.shape};
  a.blocks = plan_blocks(shape.blocks, a.x, shape.parent_slice > 0);
  if (!a.blocks.empty())
    a.final_sum = a.blocks.back().sum2;
  else if (shape.parent_slice > 0)
    a.final_sum = backward ? a.x : scratch_arena.make({M, D}, residual);
  a.out = arena.make({Q, D}, compute);
  if (backward) {
    a.final_xhat = arena.make({Q, D}, compute);
    a.final_rstd = arena.make({Q}, master);
    a.dout = a.out;
  }
  a.scratch = plan_block_scratch(
      scratch_arena, shape.blocks.empty() ? shape.encoder_block : shape.blocks.front(), backward);
  return a;
}

}  // namespace megabyte
