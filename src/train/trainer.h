// One training step and one validation of a model. What a step does depends only on the model, the
// optimizer's moments, the rows and the step's number: nothing else is carried along.
#pragma once

#include <cstdint>
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

  // tokens: settings.rows() contexts. `step` counts the finished ones.
  StepResult step(const uint16_t* tokens, int64_t step, double lr);

  // Bits per predicted byte; nothing if there are no rows.
  std::optional<double> validate(const Rows& rows);

  const Optimizer& optimizer() const { return optimizer_; }
  Hierarchy& model() { return model_; }

 private:
  double take_total();  // reads the model's sum of losses and sets it to 0

  Hierarchy& model_;
  TrainSettings settings_;
  BatchPlan plan_;
  Optimizer optimizer_;
};

}  // namespace megabyte
