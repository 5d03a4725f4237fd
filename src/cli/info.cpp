// megabyte info: what a model is and costs, counted from its shape alone (model/cost.h).
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/numbers.h"
#include "io/atomic_file.h"
#include "model/cost.h"
#include "model/files.h"
#include "model/hierarchy.h"
#include "model/presets.h"
#include "plot/line_chart.h"

namespace megabyte::cli {
namespace {

using nlohmann::ordered_json;

struct InfoOptions {
  std::string target, plot;
  std::vector<std::string> set;
  int64_t batch = 1, length = 0;
  bool checkpoint = false, presets = false, sweep = false, json = false;
  DeviceOptions device;
};

Config target_config(const InfoOptions& options) {
  const std::filesystem::path path = options.target;
  Config config;
  if (std::filesystem::is_directory(path))
    config = load_config(path / kConfigFile);
  else if (std::filesystem::exists(path))
    config = load_config(path);
  else
    config = find_preset(options.target).config;
  for (const std::string& assignment : options.set) set_key(config, assignment);
  validate(config, options.target);
  return config;
}

const char* positions_name(Positions positions) {
  switch (positions) {
    case Positions::none:
      return "no";
    case Positions::learned:
      return "learned";
    case Positions::rotary:
      break;
  }
  return "rotary";
}

// What of a stage is not the paper's plain one.
std::string stage_extras(const Config& config, size_t s) {
  const StageConfig& stage = config.stages[s];
  std::string text = fmt::format("{} positions", positions_name(stage.positions));
  if (stage.attention == AttentionKind::linear) text += ", linear attention";
  if (stage.encoder_layers > 0) text += fmt::format(", {} encoder blocks", stage.encoder_layers);
  if (stage.cross_patch > 0) text += fmt::format(", sees {} before its patch", stage.cross_patch);
  if (s == 0 && config.latents > 0) text += fmt::format(", {} latents", config.latents);
  if (s == 0 && !config.patch_encoder.empty())
    text += fmt::format(", patch encoder {}", fmt::join(config.patch_encoder, " "));
  return text;
}

struct Counts {
  Config config;
  Cost cost;
  DType compute;
  BatchPlan plan;
  TrainingMemory training;
  size_t training_activations = 0, workspace = 0;
  GenerationMemory generation;

  int64_t training_total() const {
    return training.weights + training.gradients + training.moments +
           static_cast<int64_t>(training_activations + workspace);
  }
};

Counts count(const InfoOptions& options) {
  Counts counts{.config = target_config(options)};
  const Config& config = counts.config;
  counts.cost = count_cost(config, options.length > 0 ? options.length : config.context());
  const auto backend = options.device.backend();
  counts.compute =
      options.device.compute(*backend, backend->fast(DType::bf16) ? DType::bf16 : DType::f32);
  counts.plan = {.batch = options.batch,
                 .length = counts.cost.length,
                 .training = true,
                 .checkpoint = options.checkpoint};
  counts.training = training_memory(config, counts.compute);
  counts.training_activations =
      Hierarchy::activation_bytes(config, *backend, counts.compute, counts.plan);
  counts.workspace = backend->workspace();
  counts.generation = generation_memory(config, counts.compute, options.batch);
  return counts;
}

void print_json(const InfoOptions& options, const Counts& counts) {
  const Cost& cost = counts.cost;
  ordered_json stages = ordered_json::array();
  for (size_t s = 0; s < cost.stages.size(); ++s) {
    const StageCost& stage = cost.stages[s];
    stages.push_back({{"positions", stage.positions},
                      {"bytes_per_position", counts.config.patch_bytes(static_cast<int>(s))},
                      {"dim", counts.config.stages[s].dim},
                      {"layers", stage.layers},
                      {"parameters", stage.parameters},
                      {"matrix_parameters", stage.matrix_parameters},
                      {"forward_flops_per_byte", stage.products + stage.attention},
                      {"attention_flops_per_byte", stage.attention},
                      {"paper_forward_flops_per_byte", stage.paper},
                      {"serial_steps_per_patch", stage.steps}});
  }
  const ordered_json out = {
      {"target", options.target},
      {"context", counts.config.context()},
      {"length", cost.length},
      {"predicted_bytes", cost.predicted},
      {"parameters", cost.parameters},
      {"head_parameters", cost.head_parameters},
      {"stages", stages},
      {"flops_per_byte",
       {{"paper", {{"forward", cost.paper_forward()}, {"training", cost.paper_training()}}},
        {"exact", {{"forward", cost.forward()}, {"training", cost.training(options.checkpoint)}}}}},
      {"dtype", name_of(counts.compute)},
      {"batch", options.batch},
      {"checkpoint", options.checkpoint},
      {"training_memory",
       {{"weights", counts.training.weights},
        {"gradients", counts.training.gradients},
        {"moments", counts.training.moments},
        {"activations", counts.training_activations},
        {"workspace", counts.workspace},
        {"total", counts.training_total()}}},
      {"generation_memory",
       {{"weights", counts.generation.weights}, {"caches", counts.generation.caches}}},
      {"serial_layers_per_patch", cost.serial_layers()},
      {"patch_bytes", cost.patch}};
  fmt::print("{}\n", out.dump(2));
}

void print_table(const InfoOptions& options, const Counts& counts) {
  const Config& config = counts.config;
  const Cost& cost = counts.cost;
  fmt::print("{}: {} parameters, context {} bytes, {} symbols, {}, {} head\n\n", options.target,
             scaled(static_cast<double>(cost.parameters)), config.context(), config.vocab_size,
             config.activation == Activation::relu ? "relu" : "gelu",
             config.tie_embeddings ? "tied" : "untied");
  fmt::print("{:<6} {:>10} {:>6} {:>6} {:>7} {:>6} {:>11} {:>14}  {}\n", "stage", "positions",
             "bytes", "width", "layers", "heads", "parameters", "FLOPs a byte", "");
  for (size_t s = 0; s < cost.stages.size(); ++s) {
    const StageCost& stage = cost.stages[s];
    fmt::print("{:<6} {:>10} {:>6} {:>6} {:>7} {:>6} {:>11} {:>14}  {}\n", s, stage.positions,
               config.patch_bytes(static_cast<int>(s)), config.stages[s].dim, stage.layers,
               config.stages[s].heads, scaled(static_cast<double>(stage.parameters)),
               scaled(stage.products + stage.attention), stage_extras(config, s));
  }
  fmt::print("{:<6} {:>10} {:>6} {:>6} {:>7} {:>6} {:>11} {:>14}\n\n", "head", "", "", "", "", "",
             scaled(static_cast<double>(cost.head_parameters)), scaled(cost.head));

  fmt::print("FLOPs a byte, rows of {} bytes{}\n", cost.length,
             cost.predicted < cost.length
                 ? fmt::format(" of which the last {} are predicted", cost.predicted)
                 : "");
  fmt::print("  {:<22} forward {:>8}   training {:>8}\n", "exactly", scaled(cost.forward()),
             scaled(cost.training(options.checkpoint)));
  fmt::print("  {:<22} forward {:>8}   training {:>8}\n\n", "by the paper's count",
             scaled(cost.paper_forward()), scaled(cost.paper_training()));

  const auto size = [](auto bytes) { return memory_size(static_cast<double>(bytes)); };
  fmt::print("Memory of training, batch {}, {}{}\n", options.batch, name_of(counts.compute),
             options.checkpoint ? ", activation checkpointing" : "");
  fmt::print("  weights {}, gradients {}, moments {}, activations {}{}: {} in all\n",
             size(counts.training.weights), size(counts.training.gradients),
             size(counts.training.moments), size(counts.training_activations),
             counts.workspace > 0 ? fmt::format(", workspace {}", size(counts.workspace)) : "",
             size(counts.training_total()));
  fmt::print("Memory of generation, batch {}: weights {}, caches {}\n", options.batch,
             size(counts.generation.weights), size(counts.generation.caches));
  fmt::print("Generating a patch of {} bytes takes {} blocks one after another, {:.1f} a byte\n",
             cost.patch, cost.serial_layers(),
             static_cast<double>(cost.serial_layers()) / static_cast<double>(cost.patch));
}

void print_presets(bool json) {
  ordered_json out = ordered_json::array();
  for (const Preset& preset : presets()) {
    const int64_t parameters = parameter_count(preset.config);
    if (json)
      out.push_back({{"name", preset.name},
                     {"description", preset.description},
                     {"parameters", parameters},
                     {"context", preset.config.context()}});
    else
      fmt::print("{:<30} {:>7}  {}\n", preset.name, scaled(static_cast<double>(parameters)),
                 preset.description);
  }
  if (json) fmt::print("{}\n", out.dump(2));
}

void print_sweep(bool json) {
  const Sweep sweep = sweep_lengths();
  if (json) {
    ordered_json models = ordered_json::array();
    for (const SweepModel& model : sweep.models)
      models.push_back({{"name", model.name},
                        {"kind", model.kind},
                        {"parameters", model.parameters},
                        {"flops_per_byte", model.flops_per_byte}});
    const ordered_json out = {{"lengths", sweep.lengths}, {"models", models}};
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("Forward FLOPs a byte by the paper's count (its figure 3), patches of 8\n\n{:<24}",
             "length");
  for (size_t i = 0; i < sweep.lengths.size(); i += 2)
    fmt::print("{:>8}", fmt::format("{}Ki", sweep.lengths[i] / 1024));
  fmt::print("\n");
  for (const SweepModel& model : sweep.models) {
    fmt::print("{:<24}", model.name);
    for (size_t i = 0; i < model.flops_per_byte.size(); i += 2)
      fmt::print("{:>8}", scaled(model.flops_per_byte[i]));
    fmt::print("\n");
  }
}

// Figure 3 of the paper: a colour for each kind of model, a kind of line for each size.
void plot_sweep(const std::string& file) {
  const Sweep sweep = sweep_lengths();
  LineChart chart{.title = "Forward FLOPs a byte over the length of the sequence",
                  .subtitle = "by the paper's count (its figure 3), patches of 8 bytes",
                  .x = {.label = "bytes of the sequence", .log = true, .unit = Unit::binary},
                  .y = {.label = "FLOPs a byte", .log = true, .unit = Unit::decimal}};
  std::map<std::string, int> kinds, sizes;  // seen so far, and how often
  for (const SweepModel& model : sweep.models) {
    ChartLine& line = chart.lines.emplace_back();
    line.name = model.name;
    line.color = kinds.emplace(model.kind, static_cast<int>(kinds.size())).first->second;
    line.dash = sizes[model.kind]++;
    for (size_t i = 0; i < sweep.lengths.size(); ++i)
      line.points.push_back({static_cast<double>(sweep.lengths[i]), model.flops_per_byte[i]});
  }
  write_file_atomically(file, to_svg(chart));
}

void info(const InfoOptions& options) {
  const int asked = (options.target.empty() ? 0 : 1) + options.presets + options.sweep;
  if (asked != 1)
    throw UsageError(
        "info takes one of: a model's folder, a config file, a preset's name, "
        "--presets, --sweep");
  if (!options.plot.empty() && !options.sweep)
    throw UsageError("--plot draws the sweep: give --sweep, too");
  if (options.presets) return print_presets(options.json);
  if (options.sweep) {
    if (!options.plot.empty()) plot_sweep(options.plot);
    return print_sweep(options.json);
  }
  const Counts counts = count(options);
  if (options.json)
    print_json(options, counts);
  else
    print_table(options, counts);
}

}  // namespace

void add_info(CLI::App& app) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command =
      app.add_subcommand("info", "count a model's parameters, operations, memory and serial steps");
  command->add_option("target", options->target,
                      "a model's folder, a config file or a preset's name");
  command->add_option("--set", options->set, "change a key of the config: stages.1.layers=4");
  command->add_option("--batch", options->batch, "rows (or samples) at once, for memory")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--length", options->length, "bytes of a row; default the context")
      ->check(CLI::PositiveNumber);
  command->add_flag("--checkpoint-activations", options->checkpoint,
                    "count training with activation checkpointing");
  command->add_flag("--presets", options->presets, "list the presets");
  command->add_flag("--sweep", options->sweep,
                    "FLOPs a byte over the length, up to a million bytes (figure 3 of the paper)");
  command->add_option("--plot", options->plot, "with --sweep: also write the plot, an SVG file");
  command->add_flag("--json", options->json, "for programs");
  options->device.add_to(*command, "default bf16 where the hardware multiplies it, else f32");
  command->callback([options] { info(*options); });
}

}  // namespace megabyte::cli
