// What `megabyte train` prints while it runs: one line that is written over on a terminal, a line
// now and then elsewhere (both on stderr), or JSON lines on stdout.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "train/run.h"

namespace megabyte::cli {

enum class Verbosity { quiet, normal, json };

class TrainProgress {
 public:
  explicit TrainProgress(Verbosity verbosity);
  ~TrainProgress() { clear(); }
  TrainProgress(const TrainProgress&) = delete;
  TrainProgress& operator=(const TrainProgress&) = delete;

  // For the share of the machine's peak: FLOPs of a byte, and the most FLOP/s that there could be.
  void set_peak(double flops_per_byte, double peak);
  void step(const Metrics& metrics, const RunStatus& status);
  void note(const std::string& text);  // a line that stays, unless quiet
  // Removes the line on the terminal.
  void clear();

 private:
  Verbosity verbosity_;
  bool terminal_, shown_ = false;
  std::chrono::steady_clock::time_point last_{};
  double bpb_ = 0, weight_ = 0;  // a running mean over about the last ten steps
  double flops_per_byte_ = 0, peak_ = 0;
  std::optional<double> valid_bpb_;
};

}  // namespace megabyte::cli
