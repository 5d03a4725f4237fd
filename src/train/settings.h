// Everything that defines a training run beside the model's own shape. Saved in the checkpoint, so
// that --resume continues with the same.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "model/parameters.h"
#include "model/presets.h"
#include "train/schedule.h"

namespace megabyte {

struct TrainSettings {
  // What the result depends on: the same throughout a run.
  std::vector<std::string> data,
      valid;                // files, folders or patterns; no valid: split off from data
  int64_t align = 1;        // windows begin at multiples of so many bytes
  int64_t batch = 16;       // rows of one context each
  int64_t accumulate = 1;   // batches whose gradients one step adds up
  int64_t micro_batch = 0;  // rows that go through the model at once; 0: the batch
  // Staged training (Press et al. 2021, "Shortformer", section 4): up to this part of the run
  // windows of at most short_length bytes, with more of them in a step, then of the whole context.
  // 0: of the whole context throughout.
  int64_t short_length = 0;
  double short_part = 0.75;
  std::string schedule = "cosine";
  double final_lr = 0;           // fraction of lr at the end
  std::vector<double> stage_lr;  // factors of lr, coarsest stage first; 1 where none is given
  int64_t warmup = 100;
  double warmup_limit = 1;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.98, eps = 1e-8;
  double clip = 1;              // of the gradient's norm; 0: off
  std::vector<double> dropout;  // rates, of the residual branches of each stage (StageDropout)
  uint64_t seed = 1;
  double init_stddev = 0.02;
  std::vector<std::string> init;  // TENSOR=STDDEV: other deviations (InitialScale)
  // Of the computation: an element type, or "fp8" for bf16 with products in fp8. Empty until it is
  // chosen.
  std::string dtype;

  // What may change when a run is resumed. Of the three budgets one is above zero.
  int64_t steps = 0, bytes = 0;
  double minutes = 0;
  double lr = 1e-3;

  // What the result does not depend on.
  int64_t save_every = 500, log_every = 1, valid_every = 100;  // steps
  int64_t valid_bytes = 65536;                                 // scored each time
  bool checkpoint_activations = false;
  std::string save_dtype = "f32";  // of model.safetensors

  bool fp8() const { return dtype == "fp8"; }
  DType compute() const { return fp8() ? DType::bf16 : dtype_from_name(dtype); }
  int64_t rows() const { return batch * accumulate; }  // contexts of one step
  int64_t rows_at_once() const { return micro_batch > 0 ? micro_batch : batch; }
  // Bytes of a window at this progress of a run (0 to 1). A step has as many bytes whatever it is:
  // of windows shorter than the context it has more.
  int64_t window(int64_t context, double progress) const {
    return short_length > 0 && progress < short_part ? std::min(short_length, context) : context;
  }
  Budget budget(int64_t context) const;  // bytes are rounded up to whole steps
  Schedule learning_rate() const;
  std::vector<InitialScale> initial_scales() const;
};

// Visits (name, member, fixed): `name` is the option's without "--"; a fixed one may not change
// when a run is resumed.
template <class Visit>
void for_each_setting(Visit&& visit) {
  using T = TrainSettings;
  visit("data", &T::data, false);  // its content is what counts: the checkpoint knows its size
  visit("valid", &T::valid, false);
  visit("align", &T::align, true);
  visit("batch", &T::batch, true);
  visit("accumulate", &T::accumulate, true);
  visit("micro-batch", &T::micro_batch, true);
  visit("short-length", &T::short_length, true);
  visit("short-part", &T::short_part, true);
  visit("schedule", &T::schedule, true);
  visit("final-lr", &T::final_lr, true);
  visit("stage-lr", &T::stage_lr, true);
  visit("warmup", &T::warmup, true);
  visit("warmup-limit", &T::warmup_limit, false);
  visit("weight-decay", &T::weight_decay, true);
  visit("beta1", &T::beta1, true);
  visit("beta2", &T::beta2, true);
  visit("eps", &T::eps, true);
  visit("clip", &T::clip, true);
  visit("dropout", &T::dropout, true);
  visit("seed", &T::seed, true);
  visit("init-stddev", &T::init_stddev, true);
  visit("init", &T::init, true);
  visit("dtype", &T::dtype, true);
  visit("steps", &T::steps, false);
  visit("bytes", &T::bytes, false);
  visit("minutes", &T::minutes, false);
  visit("lr", &T::lr, false);
  visit("save-every", &T::save_every, false);
  visit("log-every", &T::log_every, false);
  visit("valid-every", &T::valid_every, false);
  visit("valid-bytes", &T::valid_bytes, false);
  visit("checkpoint-activations", &T::checkpoint_activations, false);
  visit("save-dtype", &T::save_dtype, false);
}

// How a preset is trained unless told otherwise; without a budget, and with warm-up for at most a
// tenth of the run. A model that is not its own has no short windows: they are of its context.
TrainSettings settings_of(const Preset& preset, bool own_model = true);
// Once the preset's model was changed: its short windows go where they do not divide the context.
void fit_short_windows(TrainSettings& settings, const Config& config);

std::string to_json(const TrainSettings& settings);
// Error that names `where` and the key if the text is not what to_json() writes.
TrainSettings parse_train_settings(const std::string& json, const std::string& where);
// UsageError that names the option whose value makes no sense.
void validate(const TrainSettings& settings);

// FLOPs of a byte of the training data, over a whole run with its shorter windows. checkpoint: with
// what running blocks again costs.
double training_flops_per_byte(const Config& config, const TrainSettings& settings,
                               bool checkpoint);

}  // namespace megabyte
