// training.safetensors, the one commit point of a run: the master values, both moments, and in its
// metadata the step, the settings and the model's config. It is written whole under a temporary
// name, synced and renamed: whatever happens, the folder holds one complete checkpoint.
//
// The order of the data and every random number are functions of seed and step, so the step is also
// the data's cursor and the generators' state.
#pragma once

#include <cstdint>
#include <filesystem>

#include "model/config.h"
#include "model/hierarchy.h"
#include "train/optimizer.h"
#include "train/settings.h"

namespace megabyte {

struct TrainingState {
  Config config;
  TrainSettings settings;
  int64_t step = 0;                          // finished steps
  double elapsed = 0;                        // seconds of training
  int64_t train_bytes = 0, valid_bytes = 0;  // of the data, to know it again

  int64_t bytes_seen() const { return step * settings.rows() * config.context(); }
};

// Does the folder hold a model or a checkpoint?
bool holds_model(const std::filesystem::path& folder);
bool holds_checkpoint(const std::filesystem::path& folder);

// Commits the state: training.safetensors, then config.json and model.safetensors, which follow it.
void save_checkpoint(const std::filesystem::path& folder, const TrainingState& state,
                     const Hierarchy& model, const Optimizer& optimizer);

// Error for a missing or damaged checkpoint, or one that a newer version made.
TrainingState load_state(const std::filesystem::path& folder);
// Fills the model's parameters and the moments.
void load_tensors(const std::filesystem::path& folder, Hierarchy& model,
                  const Optimizer& optimizer);
// The rest of a commit that was cut short: config.json and model.safetensors, where they are not of
// the state's step.
void finish_commit(const std::filesystem::path& folder, const TrainingState& state,
                   const Hierarchy& model);

// UsageError that names the option by which `now` is another run than the `saved` one. The budget
// and the learning rate may change.
void check_same_run(const TrainingState& saved, const TrainingState& now);

}  // namespace megabyte
