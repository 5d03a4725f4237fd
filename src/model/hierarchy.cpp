#include "model/hierarchy.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace megabyte {

// Everything that one batch needs, carved from one allocation.
struct Hierarchy::Activations {
  BatchPlan plan;
  int64_t padded = 0;      // bytes of a row, padded to whole patches
  int64_t predicted = 0;   // of which the last ... are predicted (all but with Perceiver AR)
  int64_t logit_rows = 0;  // positions of a row in logits
  std::vector<StageShape> shapes;
  std::vector<StageActivations> stages;
  Tensor tokens;                  // (B, padded) u16
  Tensor targets;                 // (B, logit_rows) u16
  Tensor logits;                  // (B * logit_rows, V) master dtype
  Tensor dlogits;                 // the same, compute dtype
  Tensor losses;                  // (B * logit_rows) master dtype
  std::vector<uint16_t> staging;  // tokens on the host

  static Activations make(const Config& config, Backend& backend, DType compute,
                          const BatchPlan& plan, Arena& arena) {
    Activations a;
    const DType residual = backend.residual_dtype(compute), master = master_dtype(compute);
    const DType gradient = backend.residual_gradient_dtype(compute);
    const int64_t P0 = config.patch_bytes(0), V = config.vocab_size;
    a.plan = plan;
    a.padded = (plan.length + P0 - 1) / P0 * P0;
    const bool sliced = config.latents > 0 && config.latents < plan.length;
    a.predicted = sliced ? config.latents : plan.length;
    a.logit_rows = sliced ? config.latents : a.padded;
    const int64_t rows = plan.batch * a.logit_rows;
    a.tokens = arena.make({plan.batch * a.padded}, DType::u16);
    a.targets = sliced ? arena.make({rows}, DType::u16) : a.tokens;
    for (int s = 0; s < config.stage_count(); ++s)
      a.shapes.push_back(make_stage_shape(config, s, plan, compute, residual, gradient));
    // Stages run one at a time: their scratch shares memory. It lies behind what lives through the
    // batch, so the long-lived part is measured first.
    Arena lasting_size, scratch_size;
    for (const StageShape& shape : a.shapes) {
      scratch_size.rewind(0);
      plan_stage(lasting_size, scratch_size, shape, plan);
    }
    Arena lasting = arena.part(lasting_size.peak()), scratch = arena.part(scratch_size.peak());
    for (const StageShape& shape : a.shapes) {
      scratch.rewind(0);
      a.stages.push_back(plan_stage(lasting, scratch, shape, plan));
    }
    a.logits = arena.make({rows, V}, master);
    a.losses = arena.make({rows}, master);
    if (plan.training) a.dlogits = arena.make({rows, V}, compute);
    return a;
  }
};

Hierarchy::Hierarchy(const Config& config, Backend& backend, DType compute, bool trainable)
    : Hierarchy(config, backend,
                std::make_shared<Parameters>(config, backend, compute, trainable)) {}

Hierarchy::Hierarchy(const Config& config, Backend& backend, std::shared_ptr<Parameters> parameters)
    : config_(config), backend_(backend), parameters_(std::move(parameters)) {
  for (int s = 0; s < config.stage_count(); ++s)
    weights_.push_back(bind_stage(*parameters_, config, s));
  head_ = config.tie_embeddings ? weights_.back().embed : (*parameters_)["head.weight"];
  numbers_buffer_ = backend.allocate(2 * sizeof(double));
  const Tensor numbers{numbers_buffer_.data(), DType::f64, {2}};
  total_ = numbers.slice(0, 1);
  draw_ = numbers.slice(1, 1);
  backend.zero(numbers);
}

Hierarchy::~Hierarchy() = default;

std::unique_ptr<Hierarchy> Hierarchy::share() const {
  return std::unique_ptr<Hierarchy>(new Hierarchy(config_, backend_, parameters_));
}

int64_t Hierarchy::predicted(int64_t length) const {
  return config_.latents > 0 ? std::min(config_.latents, length) : length;
}

size_t Hierarchy::activation_bytes(const Config& config, Backend& backend, DType compute,
                                   const BatchPlan& plan) {
  Arena measure;
  Activations::make(config, backend, compute, plan, measure);
  return measure.peak();
}

void Hierarchy::prepare(const BatchPlan& plan) {
  if (activations_ && plan == plan_) return;
  if (plan.length < 1 || plan.length > config_.context())
    fail("a row of {} bytes does not fit the model: its context is {} bytes", plan.length,
         config_.context());
  check(plan.batch > 0, "a batch has rows");
  check(!plan.training || parameters_->gradients(), "only a trainable model plans for training");
  activations_.reset();
  const size_t bytes = activation_bytes(config_, backend_, compute(), plan);
  if (bytes > buffer_.bytes()) {
    buffer_ = Buffer();
    buffer_ = backend_.allocate(bytes);
  }
  Arena arena(buffer_.data());
  activations_ =
      std::make_unique<Activations>(Activations::make(config_, backend_, compute(), plan, arena));
  activations_->staging.assign(static_cast<size_t>(plan.batch * activations_->padded), 0);
  plan_ = plan;
}

namespace {

// A parent's output (M, D_parent) as the slices that its child's positions take.
Tensor slices(const Tensor& parent_out, const StageShape& child) {
  return parent_out.view({child.positions(), child.parent_slice});
}

}  // namespace

void Hierarchy::load(const uint16_t* tokens) {
  check(activations_ != nullptr, "load() follows prepare()");
  Activations& a = *activations_;
  for (int64_t b = 0; b < plan_.batch; ++b)
    std::copy_n(tokens + b * plan_.length, plan_.length, a.staging.begin() + b * a.padded);
  backend_.from_host(a.tokens, a.staging.data());
}

void Hierarchy::draw(uint64_t number) {
  const auto exactly = static_cast<double>(number);
  backend_.from_host(draw_, &exactly);
}

void Hierarchy::forward(const StageDropout& dropout) {
  const Activations& a = *activations_;
  dropout_ = dropout;
  if (a.logit_rows != a.padded)
    backend_.copy_rows(
        a.tokens.slice(a.padded - a.logit_rows, a.tokens.size() - (a.padded - a.logit_rows)),
        a.padded, a.targets, a.logit_rows, plan_.batch, a.logit_rows);
  const size_t S = a.shapes.size();
  for (size_t s = S; s-- > 0;) {
    Tensor pooled;
    if (a.shapes[s].pooled)
      pooled = a.stages[s + 1].pooled.view({a.shapes[s].positions(), a.shapes[s].dim});
    stage_up(run(s), a.tokens, pooled);
  }
  for (size_t s = 0; s < S; ++s)
    stage_down(run(s), s == 0 ? Tensor{} : slices(a.stages[s - 1].out, a.shapes[s]));
  backend_.linear_forward(a.stages.back().out, head_.value, {}, Activation::none, {}, a.logits);
}

StageRun Hierarchy::run(size_t s) const {
  const std::vector<double>& rates = dropout_.rates;
  const size_t i = rates.size() == 1 ? 0 : s;
  return {backend_,
          activations_->shapes[s],
          weights_[s],
          activations_->stages[s],
          {.rate = i < rates.size() ? static_cast<float>(rates[i]) : 0,
           .seed = dropout_.seed,
           .stream = static_cast<uint64_t>(s) << 16,
           .draw = draw_}};
}

void Hierarchy::loss(double scale) {
  const Activations& a = *activations_;
  const LossShape shape{plan_.batch, a.logit_rows, a.predicted, config_.vocab_size, scale};
  backend_.cross_entropy(shape, a.logits, a.targets, a.losses, a.dlogits, total_);
}

void Hierarchy::backward() {
  const Activations& a = *activations_;
  check(plan_.training, "backward() needs a plan for training");
  const StageActivations& finest = a.stages.back();
  backend_.linear_backward_weight(a.dlogits, finest.out, head_.grad, {});
  backend_.linear_backward_input(a.dlogits, head_.value, Activation::none, {}, finest.dout);
  const size_t S = a.shapes.size();
  const auto child_dpooled = [&](size_t s) {
    return a.shapes[s].pooled
               ? a.stages[s + 1].dpooled.view({a.shapes[s].positions(), a.shapes[s].dim})
               : Tensor{};
  };
  for (size_t s = S; s-- > 0;) {
    const bool root = s == 0;
    stage_down_backward(
        run(s), a.tokens, root ? Tensor{} : slices(a.stages[s - 1].out, a.shapes[s]),
        root ? Tensor{} : slices(a.stages[s - 1].dout, a.shapes[s]), child_dpooled(s));
  }
  for (size_t s = 0; s < S; ++s)
    if (a.shapes[s].encodes) stage_up_backward(run(s), a.tokens, child_dpooled(s));
}

Tensor Hierarchy::logits() const {
  return activations_->logits.view({plan_.batch, activations_->logit_rows, config_.vocab_size});
}

namespace {

// Copies the first `keep` of each `stride` elements from the backend, as floats.
void copy_valid(Backend& backend, const Tensor& from, int64_t rows, int64_t stride, int64_t keep,
                std::vector<double>& out) {
  std::vector<std::byte> raw(from.bytes());
  backend.to_host(raw.data(), from);
  out.resize(static_cast<size_t>(rows * keep));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < keep; ++i) {
      const int64_t at = r * stride + i;
      out[static_cast<size_t>(r * keep + i)] = from.dtype == DType::f64
                                                   ? reinterpret_cast<const double*>(raw.data())[at]
                                                   : reinterpret_cast<const float*>(raw.data())[at];
    }
}

}  // namespace

void Hierarchy::copy_logits(std::vector<double>& out) const {
  const Activations& a = *activations_;
  const int64_t V = config_.vocab_size;
  copy_valid(backend_, a.logits, plan_.batch, a.logit_rows * V, a.predicted * V, out);
}

void Hierarchy::copy_losses(std::vector<double>& out) const {
  const Activations& a = *activations_;
  copy_valid(backend_, a.losses, plan_.batch, a.logit_rows, a.predicted, out);
}

}  // namespace megabyte
