#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

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

TrainingModel::TrainingModel(const std::filesystem::path& folder, const TrainingState& state,
                             bool resume, Backend& backend, DType compute)
    : model_(state.config, backend, compute, true), trainer_(model_, state.settings) {
  if (resume) {
    load_tensors(folder, model_, trainer_.optimizer());
    finish_commit(folder, state, model_);
  } else {
    model_.parameters().initialize(state.settings.seed, state.settings.init_stddev,
                                   state.settings.initial_scales());
  }
}

TrainingRun::TrainingRun(std::filesystem::path folder, TrainingState state, Trainer& trainer,
                         const TrainingData& data)
    : folder_(std::move(folder)),
      state_(std::move(state)),
      trainer_(trainer),
      data_(data),
      held_out_(data.held_out_rows(state_.settings.valid_bytes)) {}

void TrainingRun::begin() {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) fail("cannot create the folder {}: {}", folder_.string(), error.message());
  save();
}

void TrainingRun::save() {
  if (saved_step_ == state_.step) return;
  save_checkpoint(folder_, state_, trainer_.model(), trainer_.optimizer());
  saved_step_ = state_.step;
}

void TrainingRun::check_finite(const StepResult& result, int64_t step,
                               const RunCallbacks& callbacks) {
  if (result.finite) {
    non_finite_ = 0;
    return;
  }
  callbacks.on_note(fmt::format("step {}: {} is not finite, the step is skipped", step,
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
  const int64_t context = state_.config.context(), step_bytes = settings.rows() * context;
  const Budget budget = settings.budget(context);
  const Schedule schedule = settings.learning_rate();
  MetricsLog log(folder_ / "metrics.jsonl", state_.step);
  int64_t window = 0;  // bytes of one, from the loader
  std::optional<BatchLoader> loader;

  const bool asynchronous = trainer_.model().backend().asynchronous();
  double start = now() - state_.elapsed;
  const double start_progress = budget.progress(state_.step, state_.elapsed);
  const double resumed = state_.elapsed;
  double line_start = now();  // of the steps that the next line of metrics is about
  int64_t line_steps = 0;
  // Work between steps, which the speed of a line never counts.
  const auto beside_steps = [&](const auto& work) {
    const double before = now();
    work();
    const double spent = now() - before;
    line_start += spent;
    if (callbacks.only_steps_count) start += spent;
  };
  RunResult result;
  bool finished = budget.done(state_.step, state_.elapsed), stopped = false;
  std::optional<Started> started;

  const auto report = [&] {
    Started ended = *std::exchange(started, std::nullopt);
    Metrics& metrics = ended.metrics;
    const StepResult step = trainer_.finish();
    check_finite(step, metrics.step, callbacks);
    const double end = now();
    metrics.loss = step.loss;
    metrics.grad_norm = step.grad_norm;
    metrics.bytes_per_s =
        static_cast<double>(++line_steps * step_bytes) / std::max(end - line_start, 1e-9);
    metrics.seconds = end - start;
    if (ended.validate) beside_steps([&] { metrics.valid_bpb = trainer_.validate(held_out_); });
    if (ended.logged) {
      log.write(metrics);
      line_steps = 0;
      line_start = now();
    }
    state_.elapsed = now() - start;
    const double progress = budget.progress(metrics.step, state_.elapsed);
    callbacks.on_step(
        metrics, {.progress = std::min(progress, 1.0),
                  .elapsed = state_.elapsed,
                  .seconds_left = seconds_left(progress, start_progress, state_.elapsed - resumed),
                  .total_steps = budget.steps,
                  .logged = ended.logged});
    result.last = metrics;
  };

  while (!finished && !stopped) {
    const double progress = budget.progress(state_.step, now() - start);
    const double lr = schedule.rate(state_.step, progress);
    if (const int64_t length = settings.window(context, progress); length != window) {
      if (started) report();
      trainer_.use_windows(length);
      window = length;
      loader.emplace(data_.train(), data_.train_range(),
                     BatchShape{.rows = step_bytes / length,
                                .length = length,
                                .vocab = state_.config.vocab_size,
                                .align = settings.align},
                     settings.seed, static_cast<uint64_t>(state_.step),
                     budget.steps > 0 ? static_cast<uint64_t>(budget.steps)
                                      : std::numeric_limits<uint64_t>::max());
    }
    trainer_.start(loader->next().data(), state_.step, lr);
    ++state_.step;
    if (started) report();  // the step before, while this one runs
    state_.elapsed = now() - start;
    finished = budget.done(state_.step, state_.elapsed);
    stopped = callbacks.stop_requested();
    const auto every = [&](int64_t steps) { return steps > 0 && state_.step % steps == 0; };
    const bool validate = finished || every(settings.valid_every) ||
                          (callbacks.validation_due &&
                           callbacks.validation_due(budget.progress(state_.step, state_.elapsed)));
    started = {{.step = state_.step, .bytes = state_.bytes_seen(), .lr = lr},
               validate,
               validate || every(settings.log_every)};
    const bool saves = every(settings.save_every);
    if (!asynchronous || validate || saves || stopped) report();
    // A model that is not finite now must not replace a checkpoint that is.
    if (saves && non_finite_ == 0) beside_steps([&] { save(); });
  }
  if (non_finite_ == 0) save();
  result.finished = finished;
  result.saved_step = saved_step_;
  result.elapsed = state_.elapsed;
  return result;
}

}  // namespace megabyte
