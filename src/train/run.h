// A training run: steps until the budget is used up, with validation, metrics and checkpoints in
// between. All of its state lives in a checkpoint (train/checkpoint.h), so that a run that was
// stopped or killed continues as if it never had been.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace megabyte {

// Where a run stands, for people.
struct RunStatus {
  double progress = 0;      // of the budget, 0 to 1
  double elapsed = 0;       // seconds, resumed ones included
  double seconds_left = 0;  // estimated
  int64_t total_steps = 0;  // 0: the budget is a time
  bool logged = false;      // this step has a line in metrics.jsonl
};

// What the caller wants to hear, and say.
struct RunCallbacks {
  std::function<void(const Metrics&, const RunStatus&)> on_step;  // every step
  std::function<void(const std::string&)> on_note;                // something out of the ordinary
  std::function<bool()> stop_requested;                           // asked after every step
  // Asked after every step, where the run is so far (0 to 1): is it time for a validation? Beside
  // those of settings.valid_every.
  std::function<bool(double progress)> validation_due;
  // Of a budget of time only steps take their share: neither validations nor checkpoints do.
  bool only_steps_count = false;
};

// A model and its trainer as a run begins with them: with initial values by the settings, or as the
// folder's checkpoint, whose `state` has been read, has them.
class TrainingModel {
 public:
  TrainingModel(const std::filesystem::path& folder, const TrainingState& state, bool resume,
                Backend& backend, DType compute);
  Hierarchy& model() { return model_; }
  Trainer& trainer() { return trainer_; }

 private:
  Hierarchy model_;
  Trainer trainer_;
};

struct RunResult {
  bool finished = false;  // false: stopped on request
  int64_t saved_step = 0;
  Metrics last;  // of the last step that was run
  double elapsed = 0;
};

class TrainingRun {
 public:
  static constexpr int kNonFiniteLimit = 5;  // steps in a row

  // The model, its parameters included, is that of `state`.
  TrainingRun(std::filesystem::path folder, TrainingState state, Trainer& trainer,
              const TrainingData& data);

  // Makes the folder of a new run and commits the state that it starts with, so that a folder that
  // cannot be written is known before any work is done.
  void begin();
  // Runs to the end of the budget, or until asked to stop. The last state is saved.
  RunResult run(const RunCallbacks& callbacks);

 private:
  void save();
  struct Started {    // a step whose result is still to come
    Metrics metrics;  // loss, gradient and speed are not known yet
    bool validate;    // after it
    bool logged;
  };
  void check_finite(const StepResult& result, int64_t step, const RunCallbacks& callbacks);

  std::filesystem::path folder_;
  TrainingState state_;
  Trainer& trainer_;
  const TrainingData& data_;
  Rows held_out_;
  int non_finite_ = 0;  // in a row
  int64_t saved_step_ = -1;
};

}  // namespace megabyte
