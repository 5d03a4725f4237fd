#include "train/settings.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/cost.h"

namespace megabyte {

Budget TrainSettings::budget(int64_t context) const {
  const int64_t step_bytes = rows() * context;
  return {.steps = steps > 0 ? steps : (bytes + step_bytes - 1) / step_bytes,
          .seconds = minutes * 60};
}

Schedule TrainSettings::learning_rate() const {
  return {.peak = lr,
          .warmup_steps = warmup,
          .warmup_limit = warmup_limit,
          .decay = decay_from_name(schedule),
          .final_fraction = final_lr};
}

std::vector<InitialScale> TrainSettings::initial_scales() const {
  std::vector<InitialScale> scales;
  for (const std::string& scale : init) scales.push_back(parse_initial_scale(scale));
  return scales;
}

TrainSettings settings_of(const Preset& preset, bool own_model) {
  TrainSettings settings;
  settings.batch = preset.batch;
  if (own_model) settings.short_length = preset.short_length;
  settings.lr = preset.learning_rate;
  settings.warmup = preset.warmup_steps;
  settings.warmup_limit = 0.1;
  settings.stage_lr = preset.stage_lr;
  settings.weight_decay = preset.weight_decay;
  settings.init_stddev = preset.init_stddev;
  settings.init = preset.init;
  settings.dropout = preset.dropout;
  return settings;
}

void fit_short_windows(TrainSettings& settings, const Config& config) {
  if (config.context() % settings.window(config.context(), 0) != 0) settings.short_length = 0;
}

std::string to_json(const TrainSettings& settings) {
  nlohmann::json json;
  for_each_setting([&](const char* name, auto member, bool) { json[name] = settings.*member; });
  return json.dump();
}

TrainSettings parse_train_settings(const std::string& text, const std::string& where) {
  TrainSettings settings;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  for_each_setting([&](const char* name, auto member, bool) {
    try {
      json.at(name).get_to(settings.*member);
    } catch (const nlohmann::json::exception&) {
      fail(
          "{}: the setting '{}' is missing or wrong: the checkpoint is damaged, or of another "
          "version",
          where, name);
    }
  });
  return settings;
}

void validate(const TrainSettings& s) {
  const auto require = [](bool holds, const char* message) {
    if (!holds) throw UsageError(message);
  };
  require(s.align > 0, "--align must be at least 1");
  require(s.batch > 0, "--batch must be at least 1");
  require(s.accumulate > 0, "--accumulate must be at least 1");
  require(s.micro_batch >= 0 && s.rows() % s.rows_at_once() == 0,
          "--micro-batch must divide the rows of a step (--batch times --accumulate)");
  require(s.short_length >= 0, "--short-length must not be negative (0: the context throughout)");
  require(s.short_part > 0 && s.short_part <= 1,
          "--short-part is a part of the run, above 0, to 1");
  require(s.lr > 0, "--lr must be above 0");
  require(s.final_lr >= 0 && s.final_lr <= 1, "--final-lr is a fraction of --lr, from 0 to 1");
  require(std::all_of(s.stage_lr.begin(), s.stage_lr.end(), [](double x) { return x > 0; }),
          "--stage-lr are factors of --lr, above 0");
  require(s.warmup >= 0, "--warmup must not be negative");
  require(s.weight_decay >= 0, "--weight-decay must not be negative");
  require(s.beta1 >= 0 && s.beta1 < 1, "--beta1 must be in [0, 1)");
  require(s.beta2 >= 0 && s.beta2 < 1, "--beta2 must be in [0, 1)");
  require(s.eps > 0, "--eps must be above 0");
  require(s.clip >= 0, "--clip must not be negative (0 turns clipping off)");
  require(std::all_of(s.dropout.begin(), s.dropout.end(), [](double x) { return x >= 0 && x < 1; }),
          "--dropout must be in [0, 1)");
  for (const std::string& scale : s.init) parse_initial_scale(scale);
  require(s.init_stddev > 0, "--init-stddev must be above 0");
  require((s.steps > 0) + (s.bytes > 0) + (s.minutes > 0) == 1,
          "give the length of the run as one of --steps, --bytes and --minutes, above 0");
  require(s.save_every > 0, "--save-every must be at least 1");
  require(s.log_every > 0, "--log-every must be at least 1");
  require(s.valid_every >= 0, "--valid-every must not be negative (0: only at the end)");
  require(s.valid_bytes > 0, "--valid-bytes must be above 0");
}

double training_flops_per_byte(const Config& config, const TrainSettings& settings,
                               bool checkpoint) {
  const auto at = [&](int64_t length) {
    return count_cost(config, length).training_of_read(checkpoint);
  };
  const int64_t context = config.context(), first = settings.window(context, 0);
  const double part = first < context ? settings.short_part : 0;
  return part * at(first) + (1 - part) * at(context);
}

}  // namespace megabyte
