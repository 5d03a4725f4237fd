#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace megabyte {

Trainer::Trainer(Hierarchy& model, const TrainSettings& settings)
    : model_(model),
      settings_(settings),
      plan_{.batch = settings.rows_at_once(),
            .length = model.config().context(),
            .training = true,
            .checkpoint = settings.checkpoint_activations},
      optimizer_(model.backend(), model.parameters(), settings.stage_lr) {
  model_.prepare(plan_);
}

double Trainer::loss_scale() const {
  return 1.0 / static_cast<double>(rows() * model_.predicted(plan_.length));
}

void Trainer::use_windows(int64_t length) {
  if (length == plan_.length) return;
  check(started_.empty(), "windows change between steps");
  const int64_t context = model_.config().context();
  check(context % length == 0, "a context is so many windows");
  plan_.batch = settings_.rows_at_once() * (context / length);
  plan_.length = length;
  recording_.reset();  // of the other shape
  batch_has_run_ = false;
}

void Trainer::run_batch() {
  const auto work = [&] {
    model_.forward({settings_.dropout, settings_.seed});
    model_.loss(loss_scale());
    model_.backward();
  };
  if (batch_has_run_ && !recording_) recording_ = model_.backend().record(work, 1);
  if (recording_) return recording_->replay();
  work();
  batch_has_run_ = true;
}

void Trainer::start(const uint16_t* tokens, int64_t step, double lr) {
  Backend& backend = model_.backend();
  backend.use_fp8(settings_.fp8());
  model_.prepare(plan_);  // validation may have planned another batch
  backend.zero(model_.total());
  backend.zero(model_.parameters().gradients());
  const int64_t parts = rows() / plan_.batch;
  for (int64_t part = 0; part < parts; ++part) {
    model_.load(tokens + part * plan_.batch * plan_.length);
    if (!settings_.dropout.empty()) model_.draw(static_cast<uint64_t>(step * parts + part));
    run_batch();
  }
  optimizer_.update({.lr = lr,
                     .beta1 = settings_.beta1,
                     .beta2 = settings_.beta2,
                     .eps = settings_.eps,
                     .decay = settings_.weight_decay,
                     .step = step + 1,
                     .clip = settings_.clip});
  Sums& sums = started_.emplace_back();
  sums.wait_for_loss = backend.fetch(&sums.loss, model_.total());
  sums.wait_for_norm = backend.fetch(&sums.grad_norm_sq, optimizer_.norm_sq());
}

StepResult Trainer::finish() {
  check(!started_.empty(), "finish() follows start()");
  Sums& sums = started_.front();
  sums.wait_for_loss();
  sums.wait_for_norm();
  StepResult result{.loss = sums.loss * loss_scale(), .grad_norm = std::sqrt(sums.grad_norm_sq)};
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  started_.pop_front();
  return result;
}

std::optional<double> Trainer::validate(const Rows& rows) {
  if (rows.tokens.empty()) return std::nullopt;
  const int64_t count = static_cast<int64_t>(rows.tokens.size()) / rows.length;
  const int64_t batch = settings_.rows_at_once();
  model_.backend().use_fp8(false);  // the model is used without
  recording_.reset();               // the batches planned here may take its memory
  model_.backend().zero(model_.total());
  for (int64_t row = 0; row < count; row += batch) {
    model_.prepare({.batch = std::min(batch, count - row), .length = rows.length});
    model_.load(rows.tokens.data() + row * rows.length);
    model_.forward();
    model_.loss(1);
  }
  double total = 0;
  model_.backend().to_host(&total, model_.total());
  const auto predicted = static_cast<double>(count * model_.predicted(rows.length));
  return total / (std::numbers::ln2 * predicted);
}

}  // namespace megabyte
