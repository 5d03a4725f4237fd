#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "data/batches.h"

namespace megabyte {
namespace {

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Time per unit of progress, from this session's steps.
double seconds_left(double progress, double start_progress, double seconds) {
  return progress > start_progress
             ? seconds * std::max(0.0, 1 - progress) / (progress - start_progress)
             : 0;
}

}  // namespace

TrainingRun::TrainingRun(std::filesystem::path folder, TrainingState state, Trainer& trainer,
                         const TrainingData& data)
    : folder_(std::move(folder)),
      state_(std::move(state)),
      trainer_(trainer),
      data_(data),
      held_out_(data.held_out_rows(state_.settings.valid_bytes, state_.config.context(),
                                   state_.config.vocab_size)) {}

void TrainingRun::save() {
  if (saved_step_ == state_.step) return;
  save_checkpoint(folder_, state_, trainer_.model(), trainer_.optimizer());
  saved_step_ = state_.step;
}

void TrainingRun::check_finite(const StepResult& result, const RunCallbacks& callbacks) {
  if (result.finite) {
    non_finite_ = 0;
    return;
  }
  callbacks.on_note(fmt::format("step {}: {} is not finite, the step is skipped", state_.step,
                                std::isfinite(result.loss) ? "the gradient" : "the loss"));
  if (++non_finite_ < kNonFiniteLimit) return;
  fail(
      "{} steps in a row were not finite, training stops; the last checkpoint is of step {}. Go on "
      "from it with --resume and a lower --lr (it was {}), or start anew with a lower --lr, a "
      "longer --warmup or --dtype f32",
      non_finite_, saved_step_, state_.settings.lr);
}

RunResult TrainingRun::run(const RunCallbacks& callbacks) {
  const TrainSettings& settings = state_.settings;
  const int64_t context = state_.config.context(), rows = settings.rows();
  const Budget budget = settings.budget(context);
  const Schedule schedule = settings.learning_rate();
  MetricsLog log(folder_ / "metrics.jsonl", state_.step);
  BatchLoader loader(data_.train(), data_.train_range(),
                     {.rows = rows, .length = context, .vocab = state_.config.vocab_size},
                     settings.seed, static_cast<uint64_t>(state_.step),
                     budget.steps > 0 ? static_cast<uint64_t>(budget.steps)
                                      : std::numeric_limits<uint64_t>::max());

  const double start = now() - state_.elapsed;
  const double start_progress = budget.progress(state_.step, state_.elapsed);
  const double resumed = state_.elapsed;
  double line_seconds = 0;  // spent in steps since the last line of metrics
  int64_t line_steps = 0;
  RunResult result;
  bool finished = budget.done(state_.step, state_.elapsed), stopped = false;
  while (!finished && !stopped) {
    const double before = now();
    const double lr = schedule.rate(state_.step, budget.progress(state_.step, before - start));
    const StepResult step = trainer_.step(loader.next().data(), state_.step, lr);
    ++state_.step;
    ++line_steps;
    line_seconds += now() - before;
    state_.elapsed = now() - start;
    check_finite(step, callbacks);

    finished = budget.done(state_.step, state_.elapsed);
    stopped = callbacks.stop_requested();
    Metrics metrics{.step = state_.step,
                    .bytes = state_.bytes_seen(),
                    .loss = step.loss,
                    .lr = lr,
                    .grad_norm = step.grad_norm,
                    .bytes_per_s = static_cast<double>(line_steps * rows * context) /
                                   std::max(line_seconds, 1e-9)};
    if (finished || (settings.valid_every > 0 && state_.step % settings.valid_every == 0))
      metrics.valid_bpb = trainer_.validate(held_out_);
    const bool logged = finished || metrics.valid_bpb || state_.step % settings.log_every == 0;
    if (logged) {
      log.write(metrics);
      line_seconds = 0;
      line_steps = 0;
    }
    state_.elapsed = now() - start;
    const double progress = budget.progress(state_.step, state_.elapsed);
    callbacks.on_step(
        metrics, {.progress = std::min(progress, 1.0),
                  .elapsed = state_.elapsed,
                  .seconds_left = seconds_left(progress, start_progress, state_.elapsed - resumed),
                  .total_steps = budget.steps,
                  .logged = logged});
    // A model that is not finite now must not replace a checkpoint that is.
    if (state_.step % settings.save_every == 0 && non_finite_ == 0) save();
    result.last = metrics;
  }
  if (non_finite_ == 0) save();
  result.finished = finished;
  result.saved_step = saved_step_;
  result.elapsed = state_.elapsed;
  return result;
}

}  // namespace megabyte
