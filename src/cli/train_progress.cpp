#include "cli/train_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/numbers.h"

namespace megabyte::cli {

TrainProgress::TrainProgress(Verbosity verbosity)
    : verbosity_(verbosity), terminal_(isatty(STDERR_FILENO) != 0) {}

void TrainProgress::set_peak(double flops_per_byte, double peak) {
  flops_per_byte_ = flops_per_byte;
  peak_ = peak;
}

void TrainProgress::step(const Metrics& metrics, const RunStatus& status) {
  if (verbosity_ == Verbosity::quiet) return;
  if (verbosity_ == Verbosity::json) {
    if (status.logged) {
      fmt::print("{}\n", metrics.to_json());
      std::fflush(stdout);
    }
    return;
  }
  if (std::isfinite(metrics.loss)) {
    weight_ = 0.9 * weight_ + 0.1;
    bpb_ += (metrics.bpb() - bpb_) * 0.1 / weight_;
  }
  if (metrics.valid_bpb) valid_bpb_ = metrics.valid_bpb;
  const auto now = std::chrono::steady_clock::now();
  const bool due = now - last_ >= std::chrono::milliseconds(terminal_ ? 100 : 10000);
  if (!due && status.progress < 1 && !metrics.valid_bpb) return;
  last_ = now;
  const std::string of =
      status.total_steps > 0 ? fmt::format("/{}", status.total_steps) : std::string();
  const std::string share =
      peak_ > 0
          ? fmt::format(" ({:.0f}% of peak)", 100 * metrics.bytes_per_s * flops_per_byte_ / peak_)
          : std::string();
  fmt::print(stderr, "{}{:3.0f}%  step {}{}  {:.3f} bits per byte{}  {}{}  {} left{}",
             terminal_ ? "\r\033[K" : "", std::floor(100 * status.progress), metrics.step, of, bpb_,
             valid_bpb_ ? fmt::format(" (held-out {:.3f})", *valid_bpb_) : "",
             scaled(metrics.bytes_per_s, "B/s"), share, human_duration(status.seconds_left),
             terminal_ ? "" : "\n");
  shown_ = terminal_;
  std::fflush(stderr);
}

void TrainProgress::note(const std::string& text) {
  if (verbosity_ == Verbosity::quiet) return;
  clear();
  fmt::print(stderr, "megabyte: {}\n", text);
}

void TrainProgress::clear() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace megabyte::cli
