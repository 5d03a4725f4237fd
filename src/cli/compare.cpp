// megabyte compare: trains the models of a plan on the same budget, scores them on the same bytes,
// and shows both.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/compare_report.h"
#include "cli/compare_request.h"
#include "cli/numbers.h"
#include "cli/stop_signals.h"
#include "cli/terminal_line.h"
#include "cli/train_progress.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "model/files.h"
#include "model/parameters.h"
#include "train/run.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;

struct CompareOptions {
  std::vector<std::string> data, valid, only;
  std::string plan, out;
  ComparisonBudget budget;
  uint64_t seed = 0;
  bool plans = false, resume = false, overwrite = false, json = false, quiet = false;
  DeviceOptions device;

  bool has_budget() const { return budget != ComparisonBudget{}; }
  Verbosity verbosity() const { return quiet || json ? Verbosity::quiet : Verbosity::normal; }
};

fs::path folder_of(const CompareOptions& options, const PlanEntry& entry) {
  return fs::path(options.out) / entry.name;
}
fs::path result_file(const CompareOptions& options, const PlanEntry& entry) {
  return folder_of(options, entry) / "result.json";
}

// Validations at these shares of the budget: close together at the start, where curves fall.
class ValidationPoints {
 public:
  explicit ValidationPoints(double done) { pass(done); }
  bool due(double progress) {
    if (progress < next_) return false;
    pass(progress);
    return true;
  }

 private:
  void pass(double progress) {
    while (next_ <= progress) next_ *= 1.2;
  }
  double next_ = 0.01;
};

CompareRequest asked_comparison(const CompareOptions& options) {
  const fs::path out = options.out;
  if (fs::exists(out) && !fs::is_directory(out)) fail("--out {} is not a folder", out.string());
  if (options.resume && !holds_request(out))
    fail("{} has no comparison to resume: leave out --resume to start a new one", out.string());
  if (!options.resume && !options.overwrite && holds_request(out))
    fail(
        "{} holds a comparison: --resume continues it, --overwrite replaces it, or name another "
        "folder with --out",
        out.string());
  CompareRequest request;
  if (options.resume) request = load_request(out);
  if (!options.plan.empty()) request.plan = find_plan(options.plan);
  if (!options.data.empty()) request.data = named_paths("--data", options.data, request.plan);
  if (!options.valid.empty()) request.valid = named_paths("--valid", options.valid, request.plan);
  if (options.has_budget()) request.budget = options.budget;
  if (options.seed > 0) request.seed = options.seed;
  if (!options.device.dtype.empty()) request.dtype = options.device.dtype;
  if (request.plan.entries.empty())
    throw UsageError(
        fmt::format("--plan is missing: name a file, or one of {}", fmt::join(plan_names(), ", ")));
  if (request.data.empty()) throw UsageError("--data is missing: name what to train on");
  for (const PlanEntry& entry : request.plan.entries)
    if (!request.data.contains(entry.data))
      throw UsageError(fmt::format("--data has no {0}: give {0}=PATH, too", entry.data));
  if (request.budget == ComparisonBudget{})
    throw UsageError("give what each model gets: --minutes, --flops or --bytes");
  for (const std::string& name : options.only)
    if (std::ranges::none_of(request.plan.entries,
                             [&](const PlanEntry& entry) { return entry.name == name; })) {
      std::vector<std::string> names;
      for (const PlanEntry& entry : request.plan.entries) names.push_back(entry.name);
      throw UsageError(fmt::format("--only {}: the plan has {}", name, fmt::join(names, ", ")));
    }
  return request;
}

// Everything that can be known to be wrong before the first model is trained.
void check_entries(const CompareOptions& options, const CompareRequest& request) {
  const PlanEntry* first = nullptr;
  int64_t held_out = 0;
  for (const PlanEntry& entry : request.plan.entries) {
    TrainingState state = request.state(entry);
    try {
      const TrainingData data(state.settings, state.config);
      state.train_bytes = data.train_bytes();
      state.valid_bytes = data.valid_bytes();
    } catch (const Error& e) {
      fail("entry '{}': {}", entry.name, e.what());
    }
    if (state.valid_bytes == 0)
      fail("entry '{}': nothing is held out to score: give more --data, or --valid", entry.name);
    if (first == nullptr) {
      first = &entry;
      held_out = state.valid_bytes;
    } else if (held_out != state.valid_bytes) {
      fail(
          "entries '{}' and '{}' hold out {} and {} bytes, so their scores would not compare: give "
          "them the same 'align' and vocabulary, and data of the same size",
          first->name, entry.name, held_out, state.valid_bytes);
    }
    const fs::path folder = folder_of(options, entry);
    if (!holds_checkpoint(folder) || options.overwrite) continue;
    if (!options.resume)
      fail("{} holds a model: name another folder with --out, or --overwrite it", folder.string());
    const TrainingState saved = load_state(folder);
    if (state.settings.dtype.empty()) state.settings.dtype = saved.settings.dtype;
    check_same_entry(entry.name, saved, state);
  }
}

std::optional<EntryResult> finished_result(const CompareOptions& options, const PlanEntry& entry) {
  const fs::path file = result_file(options, entry);
  if (!fs::exists(file)) return std::nullopt;
  const MappedFile mapped(file);
  try {
    EntryResult result = parse_entry_result(parse_json(mapped.text(), file.string()));
    result.label = entry.label;
    return result;
  } catch (const nlohmann::json::exception&) {
    fail("{} is not what megabyte compare writes: remove it, and the entry is scored again",
         file.string());
  }
}

void clear_entries(const CompareOptions& options, const CompareRequest& request) {
  for (const PlanEntry& entry : request.plan.entries) {
    const fs::path folder = folder_of(options, entry);
    if (holds_model(folder) || fs::exists(result_file(options, entry))) fs::remove_all(folder);
  }
}

// Trains the entry, or the rest of it. False: it was asked to stop.
bool train_entry(const CompareOptions& options, const PlanEntry& entry, TrainingState& state,
                 const TrainingData& data, Backend& backend, DType compute, EntryResult& result) {
  const fs::path folder = folder_of(options, entry);
  const bool resume = holds_checkpoint(folder);
  const Budget budget = state.settings.budget(state.config.context());
  if (!resume || !budget.done(state.step, state.elapsed)) {
    TrainingModel model(folder, state, resume, backend, compute);
    TrainingRun run(folder, state, model.trainer(), data);
    if (!resume) run.begin();
    ValidationPoints points(budget.progress(state.step, state.elapsed));
    TrainProgress progress(options.verbosity());
    const RunResult done =
        run.run({.on_step = [&](const Metrics& metrics,
                                const RunStatus& status) { progress.step(metrics, status); },
                 .on_note = [&](const std::string& text) { progress.note(text); },
                 .stop_requested = stop_requested,
                 .validation_due = [&](double share) { return points.due(share); },
                 .only_steps_count = true});
    if (!done.finished) return false;
    state.step = done.saved_step;
    state.elapsed = done.elapsed;
    result.peak_memory = backend.peak_memory();
  }
  backend.use_fp8(false);  // models are used without
  result.flops_per_byte = training_flops_per_byte(state.config, state.settings, false);
  result.steps = state.step;
  result.bytes = state.bytes_seen();
  result.seconds = state.elapsed;
  result.curve = read_curve(folder / "metrics.jsonl", result.flops_per_byte);
  return true;
}

// The result of an entry, which is then in its folder; none when it was asked to stop.
std::optional<EntryResult> run_entry(const CompareOptions& options, const CompareRequest& request,
                                     const PlanEntry& entry) {
  const fs::path folder = folder_of(options, entry);
  TrainingState state = request.state(entry);
  if (holds_checkpoint(folder)) {
    TrainingState saved = load_state(folder);
    saved.settings.data = state.settings.data;
    saved.settings.valid = state.settings.valid;
    state = std::move(saved);
  }
  const TrainingData data(state.settings, state.config);
  state.train_bytes = data.train_bytes();
  state.valid_bytes = data.valid_bytes();
  const auto backend = options.device.backend();
  const DType compute = options.device.training(*backend, state.settings);
  const TrainSettings& settings = state.settings;
  EntryResult result{.name = entry.name,
                     .label = entry.label,
                     .machine = backend->description(),
                     .dtype = settings.dtype,
                     .parameters = parameter_count(state.config),
                     .context = state.config.context(),
                     .batch = settings.rows(),
                     .lr = settings.lr,
                     .seed = settings.seed};
  if (!train_entry(options, entry, state, data, *backend, compute, result)) return std::nullopt;

  const auto model = load_model(folder, *backend, compute, false);
  const int64_t align = settings.align;
  TerminalLine line;
  for (const ScoringMethod method : entry.methods) {
    const Evaluation evaluation = evaluate(
        *model, data.held_out(), data.held_out_range(),
        {.method = method,
         .limit = std::max(align, request.plan.scored_bytes / align * align),  // whole records
         .on_progress = [&](const Score& so_far, int64_t bytes, double) {
           if (options.verbosity() == Verbosity::quiet || !line.due()) return;
           line.show(
               fmt::format("scoring, {}: {:.0f}%", name_of(method),
                           100 * static_cast<double>(so_far.bytes) / static_cast<double>(bytes)));
         }});
    result.scores.push_back(method_score(evaluation, method, request.plan.word_perplexity));
    if (stop_requested()) return std::nullopt;
  }
  write_file_atomically(result_file(options, entry), to_json(result).dump(2) + "\n");
  return result;
}

void print_scores(const std::vector<EntryState>& entries) {
  size_t width = 0;
  for (const EntryState& state : entries) width = std::max(width, state.entry->label.size());
  for (const EntryState& state : entries) {
    fmt::print("{:<{}}", state.entry->label, width);
    if (state.result) {
      for (const MethodScore& score : state.result->scores)
        fmt::print("  {} {:.3f}", score.method, score.bpb);
      fmt::print("  bits per byte after {}, {}, {}\n",
                 scaled(static_cast<double>(state.result->bytes), "B"),
                 scaled(state.result->flops(), "FLOP"), human_duration(state.result->seconds));
    } else {
      fmt::print("  {}\n", state.error.empty() ? "not finished" : "failed: " + state.error);
    }
  }
}

void print_plans(bool json) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const std::string& name : plan_names()) {
    const Plan plan = find_plan(name);
    std::vector<std::string> entries;
    for (const PlanEntry& entry : plan.entries) entries.push_back(entry.name);
    if (json)
      out.push_back({{"name", name},
                     {"title", plan.title},
                     {"description", plan.description},
                     {"data", plan.data},
                     {"entries", entries}});
    else
      fmt::print("{:<16} {}\n{:<16} {}\n", name, plan.title, "",
                 fmt::format("{}", fmt::join(entries, ", ")));
  }
  if (json) fmt::print("{}\n", out.dump(2));
}

void compare(const CompareOptions& options) {
  if (options.plans) return print_plans(options.json);
  if (options.out.empty()) throw UsageError("--out is missing: name the comparison's folder");
  ignore_file_limit_signal();
  const fs::path out = options.out;
  const CompareRequest request = asked_comparison(options);
  check_entries(options, request);
  if (options.overwrite && holds_request(out)) clear_entries(options, load_request(out));
  if (options.overwrite) clear_entries(options, request);
  std::error_code error;
  fs::create_directories(out, error);
  if (error) fail("cannot create the folder {}: {}", out.string(), error.message());
  save_request(out, request);
  catch_stop_signals();

  const std::vector<PlanEntry>& entries = request.plan.entries;
  std::vector<EntryState> states;
  for (const PlanEntry& entry : entries)
    states.push_back({.entry = &entry, .result = finished_result(options, entry), .error = {}});
  std::vector<std::string> failed;
  for (size_t i = 0; i < entries.size() && !stop_requested(); ++i) {
    const PlanEntry& entry = entries[i];
    const bool asked =
        options.only.empty() || std::ranges::find(options.only, entry.name) != options.only.end();
    if (states[i].result || !asked) continue;
    if (options.verbosity() != Verbosity::quiet)
      fmt::print(stderr, "[{}/{}] {}: {} parameters, context {}, {}\n", i + 1, entries.size(),
                 entry.label, scaled(static_cast<double>(parameter_count(entry.config))),
                 entry.config.context(), budget_text(request.budget));
    try {
      states[i].result = run_entry(options, request, entry);
    } catch (const std::exception& e) {  // the others may still be compared
      states[i].error = e.what();
      failed.push_back(entry.name);
      fmt::print(stderr, "megabyte: entry '{}' failed: {}\n", entry.name, e.what());
    }
    write_comparison(out, request.plan, request.budget, states);
  }
  if (options.json)
    fmt::print("{}\n", to_text(comparison_json(request.plan, request.budget, states)));
  else if (!options.quiet)
    print_scores(states);
  if (stop_requested()) {
    if (options.verbosity() == Verbosity::normal)
      fmt::print("Stopped. To go on:\n  megabyte compare --out {} --resume\n", options.out);
    return;
  }
  if (!failed.empty())
    fail("{} of {} entries failed ({}); --resume tries them again", failed.size(), entries.size(),
         fmt::join(failed, ", "));
  write_comparison(out, request.plan, request.budget, states);  // also where nothing was to do
  if (options.verbosity() == Verbosity::normal)
    fmt::print("The table is in {}, the plots beside it.\n", (out / "comparison.md").string());
}

}  // namespace

void add_compare(CLI::App& app) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command =
      app.add_subcommand("compare", "train several models on the same budget and compare them");
  command->footer(
      "A plan is a JSON file, or the name of one that comes with the program (--plans lists "
      "them;\ndocs/comparison.md explains the keys). Its models are trained one after the other, "
      "each by the\nsame number of counted FLOPs, the same time or the same bytes; the learning "
      "rate falls to the end\nof each model's own budget. Then all are scored on the same held-out "
      "bytes.\n\nIn --out: comparison.md, comparison.json, comparison-bytes.svg, "
      "comparison-flops.svg,\ncomparison-time.svg, written anew when a model is done, and a folder "
      "for each model.\nAfter an interruption --resume keeps what is finished and goes on from the "
      "last checkpoint.");
  const char* group = "Comparison";
  command->add_option("--plan", options->plan, "a plan's file or name")->group(group);
  command->add_flag("--plans", options->plans, "list the plans that come with the program")
      ->group(group);
  command
      ->add_option("--data", options->data,
                   "files, folders or quoted patterns of raw bytes; NAME=PATH where the plan has "
                   "several sets")
      ->group(group);
  command->add_option("--valid", options->valid, "held-out data (default: the last 5% of --data)")
      ->group(group);
  command->add_option("--out", options->out, "folder of the comparison")->group(group);
  command->add_option("--only", options->only, "names of entries: train and score no others now")
      ->group(group);
  command->add_option("--seed", options->seed, "of all entries (default: the plan's)")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command->add_flag("--resume", options->resume, "continue the comparison in --out")->group(group);
  command->add_flag("--overwrite", options->overwrite, "replace the comparison in --out")
      ->excludes("--resume")
      ->group(group);

  group = "What each model gets (one of them)";
  auto* minutes = command->add_option("--minutes", options->budget.minutes, "time of training")
                      ->check(CLI::PositiveNumber)
                      ->group(group);
  auto* flops = command
                    ->add_option("--flops", options->budget.flops,
                                 "FLOPs of training, as 'megabyte info' counts them: 1e15")
                    ->check(CLI::PositiveNumber)
                    ->group(group);
  auto* bytes =
      command->add_option("--bytes", options->budget.bytes, "bytes to read; also 500kB, 10MB, 2GB")
          ->transform(CLI::AsSizeValue(true))
          ->group(group);
  minutes->excludes(flops)->excludes(bytes);
  flops->excludes(bytes);

  group = "Output and machine";
  command->add_flag("--json", options->json, "print comparison.json at the end, no progress")
      ->group(group);
  command->add_flag("--quiet", options->quiet, "print errors only")
      ->excludes("--json")
      ->group(group);
  options->device.add_to(*command, "default bf16 where the hardware multiplies it", true);
  command->callback([options] { compare(*options); });
}

}  // namespace megabyte::cli
