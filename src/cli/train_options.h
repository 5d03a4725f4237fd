// The options of `megabyte train`, and the run that they ask for.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "cli/common.h"
#include "train/checkpoint.h"

namespace megabyte::cli {

struct TrainOptions {
  std::string out, preset, config, from;
  std::vector<std::string> assignments;  // --set
  TrainSettings given;                   // of which only the named ones count
  std::set<std::string> given_names;
  bool end_of_document = false, resume = false, overwrite = false, json = false, quiet = false;
  DeviceOptions device;

  void add_to(CLI::App& command);
  // After parsing: notes which settings were given.
  void note_given(const CLI::App& command);

  // A new run: the preset's settings, then what was given.
  TrainingState new_run() const;
  // The saved run with what was given; UsageError if that is another run.
  TrainingState resumed_run(const TrainingState& saved) const;

 private:
  void apply(TrainingState& state) const;
};

}  // namespace megabyte::cli
