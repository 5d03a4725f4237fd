// Models with names: their shapes, and how they are trained unless told otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace megabyte {

struct Preset {
  std::string name;
  std::string description;  // one line: what it is, and what in it is our choice
  Config config;
  int64_t batch;  // rows (windows) of one step
  double learning_rate;
  int64_t warmup_steps;
  double init_stddev = 0.02;
  std::vector<std::string> init = {};  // other deviations, "from_parent=0.002"
  std::vector<double> dropout = {};    // rates (StageDropout)
  std::vector<double> stage_lr = {};   // factors of learning_rate, coarsest stage first
  double weight_decay = 0.1;
  int64_t short_length = 0;  // windows of a run's first part (TrainSettings); 0: the context
};

const std::vector<Preset>& presets();
std::vector<std::string> preset_names();
// Error that proposes the nearest name and lists all.
const Preset& find_preset(const std::string& name);

}  // namespace megabyte
