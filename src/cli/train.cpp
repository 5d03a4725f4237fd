// megabyte train: trains a model on files of raw bytes.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "cli/ceiling.h"
#include "cli/commands.h"
#include "cli/numbers.h"
#include "cli/stop_signals.h"
#include "cli/train_options.h"
#include "cli/train_progress.h"
#include "model/files.h"
#include "train/run.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;

TrainingState asked_run(const TrainOptions& options) {
  const fs::path out = options.out;
  if (fs::exists(out) && !fs::is_directory(out)) fail("--out {} is not a folder", out.string());
  if (options.resume) {
    if (!holds_checkpoint(out))
      fail("{} has no training.safetensors to resume: leave out --resume to start a new run",
           out.string());
    return options.resumed_run(load_state(out));
  }
  if (holds_model(out) && !options.overwrite)
    fail(
        "{} holds a model: --resume continues its training, --overwrite replaces it, or name "
        "another folder with --out",
        out.string());
  return options.new_run();
}

// peak_memory: bytes, as Backend::peak_memory().
void print_result(const TrainOptions& options, const RunResult& result, size_t peak_memory) {
  const Metrics& last = result.last;
  if (options.quiet) return;
  if (options.json) {
    nlohmann::ordered_json json{{"model", options.out},
                                {"finished", result.finished},
                                {"saved_step", result.saved_step},
                                {"bytes", last.bytes},
                                {"bpb", last.bpb()},
                                {"seconds", result.elapsed},
                                {"peak_memory", peak_memory}};
    if (last.valid_bpb) json["valid_bpb"] = *last.valid_bpb;
    fmt::print("{}\n", json.dump());
  } else if (!result.finished) {
    fmt::print(
        "Stopped: {} holds the checkpoint of step {}. To go on:\n"
        "  megabyte train --out {} --resume\n",
        options.out, result.saved_step, options.out);
  } else {
    fmt::print(
        "Trained {} steps, {} in {}: {:.3f} bits per byte{}; peak memory {}. The model is in {}.\n",
        last.step, scaled(static_cast<double>(last.bytes), "B"), human_duration(result.elapsed),
        last.bpb(), last.valid_bpb ? fmt::format(", {:.3f} on held-out data", *last.valid_bpb) : "",
        memory_size(static_cast<double>(peak_memory)), options.out);
    fmt::print(
        "Next:\n"
        "  megabyte generate --model {} --bytes 500\n"
        "  megabyte eval --model {} --data FILE\n",
        options.out, options.out);
  }
}

void train(const TrainOptions& options) {
  ignore_file_limit_signal();
  const fs::path out = options.out;
  TrainingState state = asked_run(options);
  TrainSettings& settings = state.settings;
  const bool finished =
      options.resume && settings.budget(state.config.context()).done(state.step, state.elapsed);
  std::optional<TrainingData> data;
  if (!finished) {
    if (settings.data.empty()) throw UsageError("--data is missing: name what to train on");
    data.emplace(settings, state.config);
    TrainingState now = state;
    now.train_bytes = data->train_bytes();
    now.valid_bytes = data->valid_bytes();
    if (options.resume) check_same_run(state, now);
    state = now;
  }

  const auto backend = options.device.backend();
  const DType compute = options.device.training(*backend, settings);
  TrainingModel model(out, state, options.resume, *backend, compute);
  if (!options.from.empty() && !options.resume) load_parameters(options.from, model.model());
  if (finished && options.json) {
    print_result(options,
                 {.finished = true, .saved_step = state.step, .last = {}, .elapsed = state.elapsed},
                 backend->peak_memory());
    return;
  }
  if (finished) {
    if (!options.quiet)
      fmt::print(stderr,
                 "megabyte train: the run in {} is finished after {} steps; a larger --steps, "
                 "--bytes or --minutes continues it\n",
                 options.out, state.step);
    return;
  }

  TrainingRun run(out, state, model.trainer(), *data);
  if (!options.resume) run.begin();
  catch_stop_signals();
  TrainProgress progress(options.quiet  ? Verbosity::quiet
                         : options.json ? Verbosity::json
                                        : Verbosity::normal);
  if (!options.quiet && !options.json && backend->name() != "reference") {
    progress.set_peak(
        training_flops_per_byte(state.config, settings, settings.checkpoint_activations),
        product_ceiling(*backend, compute, backend->asynchronous() ? 4096 : 1024, 0.05));
  }
  const RunResult result =
      run.run({.on_step = [&](const Metrics& metrics,
                              const RunStatus& status) { progress.step(metrics, status); },
               .on_note = [&](const std::string& text) { progress.note(text); },
               .stop_requested = stop_requested});
  progress.clear();
  print_result(options, result, backend->peak_memory());
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "train a model on files of raw bytes");
  options->add_to(*command);
  command->callback([options, command] {
    options->note_given(*command);
    train(*options);
  });
}

}  // namespace megabyte::cli
