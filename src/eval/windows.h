// How a file of any length goes through a model of limited context: the windows that are run, and
// which of their bytes count, so that each byte of the file counts exactly once.
//
//   basic            windows side by side
//   sliding          windows that advance by half a context (in whole patches of stage 0): the new
//                    half counts. Twice the cost, and each byte sees at least half a context.
//   strided          two passes over the file, floor(P / 2) bytes apart, P being the bytes under
//   one
//                    position of stage 0: each counts the first half of every patch, where the
//                    coarsest stage has seen the most. Twice the cost.
//   sliding-strided  both: four times the cost
// Perceiver AR predicts only its latents: its windows advance by them (sliding: by half of them).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace megabyte {

enum class ScoringMethod { basic, sliding, strided, sliding_strided };

ScoringMethod scoring_method(const std::string& name);  // Error for an unknown name
std::string_view name_of(ScoringMethod method);

struct Window {
  int64_t start = 0;   // in the file
  int64_t length = 0;  // 1 to the context
  int64_t first = 0;   // of the window's bytes, the first that may count
  int64_t places = 0;  // those count whose place in their patch is below this

  bool counts(int64_t i, int64_t patch) const { return i >= first && i % patch < places; }
};

// The windows of one file, one after another.
class WindowWalk {
 public:
  // `kept`: bytes that a sliding window keeps of the one before, in place of half a context (but
  // not with Perceiver AR). Error if the model's patches leave nothing to stride over.
  WindowWalk(const Config& config, ScoringMethod method, int64_t file_bytes,
             std::optional<int64_t> kept = {});
  std::optional<Window> next();

 private:
  struct Pass {
    int64_t offset, places;
  };
  std::vector<Pass> passes_;
  int64_t bytes_, context_, first_, step_;
  size_t pass_ = 0;
  int64_t window_ = 0;  // of the pass
};

}  // namespace megabyte
