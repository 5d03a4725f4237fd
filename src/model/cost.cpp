#include "model/cost.h"

#include <algorithm>

#include "base/error.h"
#include "layers/block_decode.h"
#include "model/parameters.h"

namespace megabyte {
namespace {

// Pairs of a query and a key that it sees, in one batch row.
double visible_pairs(const AttentionShape& at) {
  const auto n = static_cast<double>(at.length), q = static_cast<double>(at.queries);
  double pairs = static_cast<double>(at.row_sequences) * (q * (n - q) + q * (q + 1) / 2);
  for (int64_t i = 0; i < at.row_sequences; ++i) {
    const int64_t earlier = std::min(at.cross, i * at.length);
    pairs += q * static_cast<double>(earlier);
    if (at.cross == 0) break;
  }
  return pairs;
}

// What attention costs, in pairs. Where it is linear, and sees one sequence only, a running state
// of width x width in each head may take the place of all pairs: every position adds to it, and
// every query asks it, at half the price of `width` pairs each.
double attention_pairs(const AttentionShape& at) {
  const double pairs = visible_pairs(at);
  if (!at.linear || at.cross > 0) return pairs;
  const auto steps = static_cast<double>(at.row_sequences * (at.length + at.queries));
  return std::min(pairs, static_cast<double>(at.head_dim) * steps / 2);
}

double product(int64_t rows, int64_t in, int64_t out) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
}

struct Flops {
  double products = 0, attention = 0, recomputed = 0;

  void add_block(const BlockShape& block) {
    const int64_t D = block.dim(), M = block.positions(), Q = block.out_positions();
    const double up = product(Q, D, block.ffn), down = up;
    const double before = product(M, D, 3 * D) + product(Q, D, D) + up;
    // q.k and the weighted sum of v: two products, a multiplication and an addition each.
    const double pairs = 4.0 * static_cast<double>(D) * attention_pairs(block.attention);
    products += before + down;
    attention += pairs;
    recomputed += before + pairs;
  }
};

// The paper's estimate for one block: 2 m FLOPs a position that goes on, and attention to half of
// the sequence on average. Where fewer positions go on (Perceiver AR), the others still give keys
// and values.
double paper_block(const BlockShape& block) {
  const AttentionShape& at = block.attention;
  const int64_t D = block.dim(), Q = block.out_positions(), quiet = block.positions() - Q;
  const auto d = static_cast<double>(D), rows = static_cast<double>(Q);
  const double seen =
      static_cast<double>(at.length - at.queries + at.cross) + static_cast<double>(at.queries) / 2;
  return product(Q, 1, 4 * D * D + 2 * D * block.ffn) + product(quiet, D, 2 * D) +
         rows * (at.linear ? 9 * d : 4 * seen * d);
}

}  // namespace

double Cost::forward() const {
  double sum = head;
  for (const StageCost& stage : stages) sum += stage.products + stage.attention;
  return sum;
}

double Cost::training(bool checkpoint) const {
  double sum = 3 * head;
  for (const StageCost& stage : stages) sum += 3 * stage.products + 3.5 * stage.attention;
  return sum + (checkpoint ? recomputed : 0);
}

double Cost::paper_forward() const {
  double sum = 0;
  for (const StageCost& stage : stages) sum += stage.paper;
  return sum;
}

int64_t Cost::serial_layers() const {
  int64_t sum = 0;
  for (const StageCost& stage : stages) sum += stage.steps * stage.layers;
  return sum;
}

Cost count_cost(const Config& config, int64_t length) {
  if (length < 1 || length > config.context())
    fail("a row of {} bytes does not fit the model: its context is {} bytes", length,
         config.context());
  const BatchPlan row{.batch = 1, .length = length};
  Cost cost;
  cost.length = length;
  cost.predicted = config.latents > 0 ? std::min(config.latents, length) : length;
  cost.patch = config.patch_bytes(0);
  cost.stages.resize(config.stages.size());
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    const int64_t size = spec.shape.size();
    cost.parameters += size;
    if (spec.stage < 0) {
      cost.head_parameters += size;
      return;
    }
    StageCost& stage = cost.stages[static_cast<size_t>(spec.stage)];
    stage.parameters += size;
    if (spec.decayed()) stage.matrix_parameters += size;
  });

  const auto predicted = static_cast<double>(cost.predicted);
  int64_t steps = 1, rows = 0;
  for (size_t s = 0; s < config.stages.size(); ++s) {
    const StageConfig& stage = config.stages[s];
    const StageShape shape =
        make_stage_shape(config, static_cast<int>(s), row, DType::f32, DType::f32);
    StageCost& count = cost.stages[s];
    const int64_t M = shape.positions();
    if (s > 0) steps *= stage.length;
    count.positions = M;
    count.steps = steps;
    count.layers = stage.layers + stage.encoder_layers;

    Flops blocks, rest;
    double paper = 0;
    const auto add = [&](const BlockShape& block) {
      blocks.add_block(block);
      paper += paper_block(block);
    };
    for (const BlockShape& block : shape.blocks) add(block);
    for (int64_t i = 0; i < shape.encoder_layers; ++i) add(shape.encoder_block);
    if (s > 0) rest.products += product(M, shape.parent_slice, shape.dim);
    if (shape.encodes) rest.products += product(M, shape.dim, shape.parent_slice);
    for (const int64_t width : shape.convolutions)
      rest.products += product(M * shape.patch, shape.embed_dim() * width, shape.embed_dim());
    count.products = (blocks.products + rest.products) / predicted;
    count.attention = blocks.attention / predicted;
    cost.recomputed += blocks.recomputed / predicted;
    rows = shape.out_positions();
    count.paper = (paper + rest.products) / predicted;
  }
  cost.head = product(rows, config.stages.back().dim, config.vocab_size) / predicted;
  return cost;
}

TrainingMemory training_memory(const Config& config, DType compute) {
  const int64_t count = parameter_count(config);
  const DType master = master_dtype(compute);
  const auto bytes = [&](DType type) { return count * static_cast<int64_t>(size_of(type)); };
  return {.weights = bytes(master) + (compute == master ? 0 : bytes(compute)),
          .gradients = bytes(master),
          .moments = 2 * bytes(master)};
}

GenerationMemory generation_memory(const Config& config, DType compute, int64_t batch) {
  GenerationMemory memory{.weights = training_memory(config, compute).weights, .caches = 0};
  const BatchPlan row{.batch = 1, .length = config.context()};
  const auto element = static_cast<int64_t>(size_of(compute));
  const auto state_element = static_cast<int64_t>(size_of(master_dtype(compute)));
  for (int s = 0; s < config.stage_count(); ++s) {
    const StageShape shape = make_stage_shape(config, s, row, compute, compute);
    const BlockShape& block = shape.encoder_block;
    const int64_t seen = cache_capacity(block), dim = block.dim();
    const int64_t sum = (block.attention.head_dim + 1) * dim * state_element;
    const int64_t layers = shape.encoder_layers + config.stages[static_cast<size_t>(s)].layers;
    for (int64_t i = 0; i < layers; ++i) {
      // Past its latents Perceiver AR caches the first block only.
      const int64_t slots = config.latents > 0 && i > 0 ? std::min(seen, config.latents) : seen;
      if (!keeps_running_sum(block))
        memory.caches += batch * 2 * slots * dim * element;
      else
        memory.caches += batch * (sum + (block.turns_windows() ? 3 * slots * dim * element : 0));
    }
  }
  return memory;
}

namespace {

StageConfig sweep_stage(int64_t length, int64_t dim, int64_t layers, AttentionKind attention) {
  return {.length = length,
          .dim = dim,
          .layers = layers,
          .heads = dim / 128,
          .ffn = 4 * dim,
          .positions = Positions::none,
          .attention = attention};
}

}  // namespace

Sweep sweep_lengths() {
  Sweep sweep;
  for (int64_t length = 1024; length <= 1 << 20; length *= 2) sweep.lengths.push_back(length);
  constexpr int64_t P = 8;
  struct Width {
    int64_t dim, layers;
  };
  struct Size {
    const char *megabyte, *transformer;
    Width global, local, single;  // 12 dim^2 parameters a layer
  };
  const Size sizes[] = {
      {"MEGABYTE 452M/151M", "603M", {1024, 36}, {1024, 12}, {1024, 48}},
      {"MEGABYTE 5.8B/604M", "6.4B", {4096, 29}, {2048, 12}, {4096, 32}},
      {"MEGABYTE 170B/3.2B", "173B", {12288, 94}, {4096, 16}, {12288, 96}},
  };
  const auto add = [&](const std::string& name, const std::string& kind, const auto& stages_of) {
    SweepModel model{.name = name, .kind = kind};
    for (const int64_t length : sweep.lengths) {
      const Config config{.stages = stages_of(length)};
      const Cost cost = count_cost(config, length);
      model.flops_per_byte.push_back(cost.paper_forward());
      model.parameters = 0;
      for (const StageCost& stage : cost.stages) model.parameters += stage.matrix_parameters;
    }
    sweep.models.push_back(model);
  };
  for (const Size& size : sizes) {
    using Stages = std::vector<StageConfig>;
    const auto single = [&](AttentionKind kind) {
      return [&size, kind](int64_t length) {
        return Stages{sweep_stage(length, size.single.dim, size.single.layers, kind)};
      };
    };
    add(std::string("Transformer ") + size.transformer, "Transformer",
        single(AttentionKind::softmax));
    add(std::string("linear Transformer ") + size.transformer, "linear Transformer",
        single(AttentionKind::linear));
    add(size.megabyte, "MEGABYTE", [&](int64_t length) {
      return Stages{
          sweep_stage(length / P, size.global.dim, size.global.layers, AttentionKind::softmax),
          sweep_stage(P, size.local.dim, size.local.layers, AttentionKind::softmax)};
    });
  }
  return sweep;
}

}  // namespace megabyte
