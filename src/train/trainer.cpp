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
      optimizer_(model.backend(), model.parameters()) {
  model_.prepare(plan_);
}

double Trainer::take_total() {
  double total = 0;
  model_.backend().to_host(&total, model_.total());
  model_.backend().zero(model_.total());
  return total;
}

StepResult Trainer::step(const uint16_t* tokens, int64_t step, double lr) {
  Backend& backend = model_.backend();
  backend.use_fp8(settings_.fp8());
  model_.prepare(plan_);  // validation may have planned another batch
  backend.zero(model_.total());
  backend.zero(model_.parameters().gradients());
  const int64_t rows = settings_.rows(), parts = rows / plan_.batch;
  const double scale = 1.0 / static_cast<double>(rows * model_.predicted(plan_.length));
  for (int64_t part = 0; part < parts; ++part) {
    const Dropout dropout{.rate = static_cast<float>(settings_.dropout),
                          .seed = settings_.seed,
                          .stream = static_cast<uint64_t>(step * parts + part)};
    model_.forward(tokens + part * plan_.batch * plan_.length, dropout);
    model_.loss(scale);
    model_.backward();
  }
  optimizer_.update({.lr = lr,
                     .beta1 = settings_.beta1,
                     .beta2 = settings_.beta2,
                     .eps = settings_.eps,
                     .decay = settings_.weight_decay,
                     .step = step + 1,
                     .clip = settings_.clip});
  StepResult result{.loss = take_total() * scale, .grad_norm = optimizer_.norm()};
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  return result;
}

std::optional<double> Trainer::validate(const Rows& rows) {
  if (rows.tokens.empty()) return std::nullopt;
  const int64_t count = static_cast<int64_t>(rows.tokens.size()) / rows.length;
  model_.backend().use_fp8(false);  // the model is used without
  model_.backend().zero(model_.total());
  for (int64_t row = 0; row < count; row += plan_.batch) {
    model_.prepare({.batch = std::min(plan_.batch, count - row), .length = rows.length});
    model_.forward(rows.tokens.data() + row * rows.length);
    model_.loss(1);
  }
  const auto predicted = static_cast<double>(count * model_.predicted(rows.length));
  return take_total() / (std::numbers::ln2 * predicted);
}

}  // namespace megabyte
