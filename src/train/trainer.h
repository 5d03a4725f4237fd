// One training step and one validation of a model. What a step does depends only on the model, the
// optimizer's moments, the rows and the step's number: nothing else is carried along.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "model/hierarchy.h"
#include "train/optimizer.h"
#include "train/settings.h"
#include "train/training_data.h"

namespace megabyte {

struct StepResult {
  double loss = 0;       // nats per predicted byte
  double grad_norm = 0;  // before clipping
  bool finite = true;    // else the step changed nothing
};

class Trainer {
 public:
  // Allocates the optimizer's state and plans the memory of a step. Steps of settings.fp8() need a
  // backend that has such products.
  Trainer(Hierarchy& model, const TrainSettings& settings);

  // Bytes of a window from the next step on: the context, or a divisor of it, of which a step then
  // has as many more. To begin with the context. Every step that was started is finished.
  void use_windows(int64_t length);

  // tokens: as many bytes as settings.rows() contexts. `step` counts the finished ones.
  StepResult step(const uint16_t* tokens, int64_t step, double lr) {
    start(tokens, step, lr);
    return finish();
  }
  // In two halves: several steps may be started, and on an asynchronous backend their results are
  // waited for one by one, in order.
  void start(const uint16_t* tokens, int64_t step, double lr);
  StepResult finish();

  // Bits per predicted byte; nothing if there are no rows.
  std::optional<double> validate(const Rows& rows);

  const Optimizer& optimizer() const { return optimizer_; }
  Hierarchy& model() { return model_; }

 private:
  struct Sums {  // of a step, on their way to the host
    double loss = 0, grad_norm_sq = 0;
    std::function<void()> wait_for_loss, wait_for_norm;
  };
  // Forward, loss and backward of the loaded batch: recorded once and replayed where that can be.
  void run_batch();
  int64_t rows() const {  // windows of a step
    return settings_.rows() * (model_.config().context() / plan_.length);
  }
  double loss_scale() const;  // to the mean over a step

  Hierarchy& model_;
  TrainSettings settings_;
  BatchPlan plan_;
  Optimizer optimizer_;
  std::deque<Sums> started_;
  bool batch_has_run_ = false;
  std::unique_ptr<Recording> recording_;
};

}  // namespace megabyte
