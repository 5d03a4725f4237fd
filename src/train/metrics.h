// metrics.jsonl: one JSON object a line, written as training goes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace megabyte {

struct Metrics {
  int64_t step = 0;    // finished steps
  int64_t bytes = 0;   // seen since the start of the run
  double seconds = 0;  // of training, as the run's budget counts them
  double loss = 0;     // nats per byte
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double bytes_per_s = 0;
  std::optional<double> valid_bpb;

  double bpb() const;
  // One line without its end. A number that is not finite is null.
  std::string to_json() const;
};

class MetricsLog {
 public:
  // Keeps the lines up to `step` of what is there (a run may have written more before it was
  // killed) and goes on behind them.
  MetricsLog(const std::filesystem::path& file, int64_t step);
  void write(const Metrics& metrics);  // and flushes. Error if the disk is full.

 private:
  std::filesystem::path file_;
  std::ofstream out_;
};

}  // namespace megabyte
