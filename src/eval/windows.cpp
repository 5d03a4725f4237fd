#include "eval/windows.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace megabyte {
namespace {

constexpr std::array<std::pair<std::string_view, ScoringMethod>, 4> kMethods{
    {{"basic", ScoringMethod::basic},
     {"sliding", ScoringMethod::sliding},
     {"strided", ScoringMethod::strided},
     {"sliding-strided", ScoringMethod::sliding_strided}}};

}  // namespace

ScoringMethod scoring_method(const std::string& name) {
  for (const auto& [known, method] : kMethods)
    if (name == known) return method;
  fail("unknown scoring method '{}': use basic, sliding, strided or sliding-strided", name);
}

std::string_view name_of(ScoringMethod method) {
  return kMethods[static_cast<size_t>(method)].first;
}

WindowWalk::WindowWalk(const Config& config, ScoringMethod method, int64_t file_bytes,
                       std::optional<int64_t> kept)
    : bytes_(file_bytes), context_(config.context()) {
  const bool slides = method == ScoringMethod::sliding || method == ScoringMethod::sliding_strided;
  const bool strides = method == ScoringMethod::strided || method == ScoringMethod::sliding_strided;
  const int64_t patch = config.patch_bytes(0), positions = config.stages.front().length;
  if (strides && patch < 2)
    fail(
        "{} scoring needs patches of two bytes and more, and this model has {}: use --method "
        "sliding",
        name_of(method),
        config.stage_count() == 1 ? "one stage, without patches" : "patches of one byte");
  if (config.latents > 0) {
    first_ = std::min(config.latents, context_);
    step_ = slides ? std::max<int64_t>(1, first_ / 2) : first_;
  } else {
    first_ = context_;
    if (slides && kept)
      step_ = context_ - *kept;
    else
      step_ = slides && positions > 1 ? positions / 2 * patch : context_;
  }
  if (strides)
    passes_ = {{0, patch / 2}, {patch / 2, patch - patch / 2}};
  else
    passes_ = {{0, patch}};
}

std::optional<Window> WindowWalk::next() {
  for (; pass_ < passes_.size(); ++pass_, window_ = 0) {
    const auto [offset, places] = passes_[pass_];
    const int64_t end = offset + first_ + window_ * step_;
    const int64_t done = window_ == 0 ? offset : end - step_;  // where the last window ended
    if (done >= bytes_) continue;
    const int64_t start = std::max(offset, end - context_);
    ++window_;
    return Window{.start = start,
                  .length = std::min(end, bytes_) - start,
                  .first = done - start,
                  .places = places};
  }
  return std::nullopt;
}

}  // namespace megabyte
