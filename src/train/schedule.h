// The learning rate over a run, and how much of a run is done.
#pragma once

#include <cstdint>
#include <string>

namespace megabyte {

enum class Decay { cosine, linear, constant };

Decay decay_from_name(const std::string& name);  // UsageError for an unknown name

// What ends a run: a number of steps, or a time. Exactly one of them is above zero.
struct Budget {
  int64_t steps = 0;
  double seconds = 0;

  // Of a run that has taken `step` steps in `elapsed` seconds: 0 at the start, 1 or more when done.
  double progress(int64_t step, double elapsed) const;
  bool done(int64_t step, double elapsed) const { return progress(step, elapsed) >= 1; }
};

// rate = peak * warm-up * decay. Warm-up rises by steps; decay falls with the progress of the run,
// from 1 to `final_fraction`. A pure function, so a resumed run continues it exactly (with a budget
// of steps: to the bit).
struct Schedule {
  double peak = 0;
  int64_t warmup_steps = 0;
  // Short runs would not get through a preset's warm-up: it is over at this progress at the latest.
  double warmup_limit = 1;
  Decay decay = Decay::cosine;
  double final_fraction = 0;

  // Of the step that follows `step` finished ones.
  double rate(int64_t step, double progress) const;
};

}  // namespace megabyte
