#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace megabyte {

Decay decay_from_name(const std::string& name) {
  if (name == "cosine") return Decay::cosine;
  if (name == "linear") return Decay::linear;
  if (name == "constant") return Decay::constant;
  throw UsageError("unknown schedule '" + name + "': use cosine, linear or constant");
}

double Budget::progress(int64_t step, double elapsed) const {
  return steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : elapsed / seconds;
}

double Schedule::rate(int64_t step, double progress) const {
  progress = std::clamp(progress, 0.0, 1.0);
  double warmup = 1;
  if (step + 1 < warmup_steps && progress < warmup_limit)
    warmup = std::max(static_cast<double>(step + 1) / static_cast<double>(warmup_steps),
                      progress / warmup_limit);
  double left = 1;  // of the way from final_fraction to 1
  if (decay == Decay::cosine) left = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  if (decay == Decay::linear) left = 1 - progress;
  return peak * warmup * (final_fraction + (1 - final_fraction) * left);
}

}  // namespace megabyte
