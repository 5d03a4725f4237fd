#include "model/parameters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <deque>
#include <future>
#include <thread>
#include <vector>

#include "base/arena.h"
#include "base/error.h"
#include "base/random.h"

namespace megabyte {
namespace {

void visit_block(const std::string& pre, const StageConfig& stage, const auto& visit) {
  const int64_t D = stage.dim, F = stage.ffn;
  using Kind = ParameterKind;
  visit(pre + "norm1.weight", Shape{D}, Kind::norm_weight, false);
  visit(pre + "norm1.bias", Shape{D}, Kind::bias, false);
  visit(pre + "attention.qkv.weight", Shape{3 * D, D}, Kind::matrix, false);
  visit(pre + "attention.qkv.bias", Shape{3 * D}, Kind::bias, false);
  visit(pre + "attention.out.weight", Shape{D, D}, Kind::matrix, true);
  visit(pre + "attention.out.bias", Shape{D}, Kind::bias, false);
  visit(pre + "norm2.weight", Shape{D}, Kind::norm_weight, false);
  visit(pre + "norm2.bias", Shape{D}, Kind::bias, false);
  visit(pre + "ffn.up.weight", Shape{F, D}, Kind::matrix, false);
  visit(pre + "ffn.up.bias", Shape{F}, Kind::bias, false);
  visit(pre + "ffn.down.weight", Shape{D, F}, Kind::matrix, true);
  visit(pre + "ffn.down.bias", Shape{D}, Kind::bias, false);
}

int64_t aligned(int64_t elements) {
  return (elements + Parameters::kAlignment - 1) / Parameters::kAlignment * Parameters::kAlignment;
}

// Normal with the given deviation, drawn again beyond two of them.
float truncated_normal(Random& random, double stddev) {
  double x;
  do x = random.normal();
  while (std::abs(x) > 2);
  return static_cast<float>(stddev * x);
}

bool is_drawn(ParameterKind kind) {
  return kind != ParameterKind::norm_weight && kind != ParameterKind::bias;
}

// Initial values of one tensor (docs/training.md).
std::vector<float> initial_values(const ParameterSpec& spec, uint64_t seed, uint64_t stream,
                                  double stddev) {
  std::vector<float> values(static_cast<size_t>(spec.shape.size()), 0.0f);
  switch (spec.kind) {
    case ParameterKind::norm_weight:
      std::fill(values.begin(), values.end(), 1.0f);
      break;
    case ParameterKind::bias:
      break;
    default: {
      // Pads too are drawn, not zero: a zero vector keeps zero through every block while biases are
      // zero, and each norm then multiplies its gradient by 1 / sqrt(eps) = 316, which explodes
      // with depth. Outputs onto the residual stream are smaller by the number of branches that add
      // to it.
      const double scale =
          spec.residual_output ? 1 / std::sqrt(2.0 * static_cast<double>(spec.stage_layers)) : 1.0;
      Random random(seed, stream);
      for (float& x : values) x = truncated_normal(random, stddev * scale);
    }
  }
  return values;
}

}  // namespace

void for_each_parameter(const Config& config,
                        const std::function<void(const ParameterSpec&)>& visit) {
  using Kind = ParameterKind;
  const int64_t V = config.vocab_size;
  for (int s = 0; s < config.stage_count(); ++s) {
    const StageConfig& stage = config.stages[static_cast<size_t>(s)];
    const int64_t P = config.patch_bytes(s), D = stage.dim, n = stage.length, e = D / P;
    const std::string pre = fmt::format("stages.{}.", s);
    const int64_t layers = stage.layers + stage.encoder_layers;
    const auto add = [&](const std::string& name, const Shape& shape, Kind kind, bool output) {
      visit({name, shape, kind, s, output, layers});
    };
    if (!config.encodes(s + 1)) add(pre + "embed.weight", {V, e}, Kind::embedding, false);
    if (stage.positions == Positions::learned)
      add(pre + "positions.weight", {n * P, e}, Kind::positions, false);
    add(pre + "pad", {D}, Kind::pad, false);
    if (s == 0) {
      for (size_t j = 0; j < config.patch_encoder.size(); ++j) {
        const std::string conv = fmt::format("{}patch_encoder.{}.", pre, j);
        add(conv + "weight", {e, e, config.patch_encoder[j]}, Kind::convolution, false);
        add(conv + "bias", {e}, Kind::bias, false);
      }
    } else {
      const int64_t slice = config.stages[static_cast<size_t>(s - 1)].dim / n;
      add(pre + "from_parent.weight", {D, slice}, Kind::matrix, false);
      if (stage.encoder_layers > 0) {
        add(pre + "to_parent.weight", {slice, D}, Kind::matrix, false);
        add(pre + "encoder_norm.weight", {D}, Kind::norm_weight, false);
        add(pre + "encoder_norm.bias", {D}, Kind::bias, false);
      }
    }
    for (int64_t i = 0; i < stage.encoder_layers; ++i)
      visit_block(fmt::format("{}encoder.{}.", pre, i), stage, add);
    for (int64_t i = 0; i < stage.layers; ++i)
      visit_block(fmt::format("{}blocks.{}.", pre, i), stage, add);
    add(pre + "norm.weight", {D}, Kind::norm_weight, false);
    add(pre + "norm.bias", {D}, Kind::bias, false);
  }
  if (!config.tie_embeddings)
    visit({"head.weight", {V, config.stages.back().dim}, Kind::matrix, -1, false, 1});
}

int64_t parameter_count(const Config& config) {
  int64_t count = 0;
  for_each_parameter(config, [&](const ParameterSpec& spec) { count += spec.shape.size(); });
  return count;
}

Parameters::Parameters(const Config& config, Backend& backend, DType compute, bool with_gradients)
    : backend_(backend), compute_(compute) {
  for_each_parameter(config, [&](const ParameterSpec& spec) { specs_.push_back(spec); });
  int64_t size = 0;
  for (const bool decayed : {true, false}) {
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].decayed() != decayed) continue;
      places_[specs_[i].name] = {size, i};
      const int stage = specs_[i].stage < 0 ? config.stage_count() - 1 : specs_[i].stage;
      if (groups_.empty() || groups_.back().decayed != decayed || groups_.back().stage != stage)
        groups_.push_back({size, 0, decayed, stage});
      const int64_t elements = aligned(specs_[i].shape.size());
      groups_.back().count += elements;
      size += elements;
      count_ += specs_[i].shape.size();
    }
  }
  const DType master = master_dtype(compute);
  const auto plan = [&](Arena& arena) {
    values_ = arena.make({size}, master);
    if (compute != master) copies_ = arena.make({size}, compute);
    if (with_gradients) gradients_ = arena.make({size}, master);
  };
  Arena measure;
  plan(measure);
  buffer_ = backend.allocate(measure.peak());
  Arena arena(buffer_.data());
  plan(arena);
  for (const Tensor& t : {values_, copies_, gradients_})
    if (t) backend.zero(t);
}

Tensor Parameters::view(const Tensor& flat, const std::string& name) const {
  const auto place = places_.find(name);
  check(place != places_.end(), "no parameter is named " + name);
  const Shape& shape = specs_[place->second.spec].shape;
  return flat.slice(place->second.offset, shape.size()).view(shape);
}

Tensor Parameters::master(const std::string& name) const { return view(values_, name); }

Weight Parameters::operator[](const std::string& name) const {
  const Tensor master_value = master(name);
  const bool vector = master_value.shape.rank() == 1;
  return {copies_ && !vector ? view(copies_, name) : master_value,
          gradients_ ? view(gradients_, name) : Tensor{}};
}

bool InitialScale::applies_to(const ParameterSpec& spec) const {
  return is_drawn(spec.kind) &&
         fmt::format(".{}.", spec.name).find(fmt::format(".{}.", tensor)) != std::string::npos;
}

InitialScale parse_initial_scale(const std::string& text) {
  const size_t equals = text.find('=');
  const char* const end = text.data() + text.size();
  double stddev = -1;
  if (equals != std::string::npos && equals > 0 &&
      std::from_chars(text.data() + equals + 1, end, stddev).ptr == end && stddev >= 0 &&
      std::isfinite(stddev))
    return {text.substr(0, equals), stddev};
  throw UsageError(fmt::format(
      "--init {}: write TENSOR=STDDEV, for example from_parent=0.002; a deviation is 0 or more",
      text));
}

void Parameters::initialize(uint64_t seed, double stddev, const std::vector<InitialScale>& scales) {
  std::vector<double> deviations(specs_.size(), stddev);
  for (const InitialScale& scale : scales) {
    bool found = false;
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (!scale.applies_to(specs_[i])) continue;
      deviations[i] = scale.stddev;
      found = true;
    }
    if (!found)
      throw UsageError(fmt::format(
          "--init {}={}: no tensor of this model that is drawn has this in its name; docs/model.md "
          "names them",
          scale.tensor, scale.stddev));
  }
  // Every tensor has its own stream of random numbers, so a few are drawn at once.
  const size_t at_once = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
  std::deque<std::future<std::vector<float>>> coming;
  for (size_t i = 0, next = 0; i < specs_.size(); ++i) {
    for (; next < specs_.size() && coming.size() < at_once; ++next)
      coming.push_back(
          std::async(std::launch::async, [this, seed, next, stddev = deviations[next]] {
            return initial_values(specs_[next], seed, next, stddev);
          }));
    const std::vector<float> values = coming.front().get();
    coming.pop_front();
    const Tensor target = master(specs_[i].name);
    if (target.dtype == DType::f32) {
      backend_.from_host(target, values.data());
    } else {
      const std::vector<double> wide(values.begin(), values.end());
      backend_.from_host(target, wide.data());
    }
  }
  refresh_copies();
}

void Parameters::refresh_copies() {
  if (copies_) backend_.convert(values_, copies_);
}

}  // namespace megabyte
