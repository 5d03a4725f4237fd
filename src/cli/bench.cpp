// megabyte bench: speed of training and generation beside the ceilings of the same machine,
// measured in the same run. Inputs are random bytes; times are medians after warm-up.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "cli/ceiling.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/numbers.h"
#include "generate/generator.h"
#include "model/cost.h"
#include "model/presets.h"
#include "ops/host_memory.h"
#include "train/trainer.h"

namespace megabyte::cli {
namespace {

struct BenchOptions {
  std::string preset = "tiny", config;
  std::vector<std::string> set;
  bool train = false, generate = false, json = false;
  int64_t batch = 0, micro_batch = 0, samples = 1, bytes = 1024;
  double seconds = 5;
  bool checkpoint = false;
  DeviceOptions device;
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Times `work` again and again for about `seconds`, at least `least` times, after one warm-up.
std::vector<double> repeat(double seconds, size_t least, const std::function<void()>& work) {
  work();
  std::vector<double> times;
  double spent = 0;
  while (times.size() < least || spent < seconds) {
    times.push_back(seconds_of(work));
    spent += times.back();
  }
  return times;
}

struct TrainBench {
  std::string dtype;
  int64_t batch, length;
  size_t steps;
  double step_seconds, flops_per_byte;
  size_t peak_memory, host_peak_memory;

  double bytes_per_s() const { return static_cast<double>(batch * length) / step_seconds; }
};

// Error for what does not go together.
TrainSettings training_settings(const BenchOptions& options, int64_t batch, Backend& backend) {
  const DType compute =
      options.device.compute(backend, backend.fast(DType::bf16) ? DType::bf16 : DType::f32);
  TrainSettings settings;
  settings.batch = batch;
  settings.micro_batch = options.micro_batch;
  settings.dtype = options.device.fp8() ? "fp8" : name_of(compute);
  settings.checkpoint_activations = options.checkpoint;
  settings.steps = 1;  // as many as it takes; validate() asks for a budget
  validate(settings);
  return settings;
}

TrainBench bench_training(const BenchOptions& options, const Config& config,
                          const TrainSettings& settings, Backend& backend) {
  const int64_t batch = settings.batch;
  backend.use_fp8(settings.fp8());
  Hierarchy model(config, backend, settings.compute(), true);
  model.parameters().initialize(1);
  Trainer trainer(model, settings);
  Random random(1, 0);
  std::vector<uint16_t> tokens(static_cast<size_t>(batch * config.context()));
  for (uint16_t& token : tokens) token = static_cast<uint16_t>(random.below(256));
  int64_t step = 0;
  const std::vector<double> times =
      repeat(options.seconds, 3, [&] {  // as in a run: a step's result comes during the next one
        trainer.start(tokens.data(), step, 1e-4);
        if (step++ > 0) trainer.finish();
      });
  trainer.finish();
  backend.use_fp8(false);  // ceilings are those of element types
  return {.dtype = settings.dtype,
          .batch = batch,
          .length = config.context(),
          .steps = times.size(),
          .step_seconds = median(times),
          .flops_per_byte = count_cost(config, config.context()).training(options.checkpoint),
          .peak_memory = backend.peak_memory(),
          .host_peak_memory = peak_host_memory()};
}

struct GenerateBench {
  DType compute;
  int64_t samples, bytes;
  size_t runs;
  double run_seconds, weight_bytes;  // read for one byte of all samples

  double bytes_per_s() const { return static_cast<double>(samples * bytes) / run_seconds; }
  double weights_per_s() const {
    return weight_bytes * bytes_per_s() / static_cast<double>(samples);
  }
};

GenerateBench bench_generation(const BenchOptions& options, const Config& config,
                               Backend& backend) {
  const DType compute = options.device.compute(backend, DType::f32);
  Hierarchy model(config, backend, compute, false);
  model.parameters().initialize(1);
  Generator generator(model, options.samples, {});
  const int64_t bytes = std::min(options.bytes, config.context());
  const std::vector<double> times = repeat(options.seconds, 3, [&] {
    generator.start({}, 0);
    for (int64_t i = 0; i < bytes; ++i) generator.next();
  });
  const Cost cost = count_cost(config, config.context());
  double weights = static_cast<double>(config.vocab_size * config.stages.back().dim);
  for (const StageCost& stage : cost.stages)
    weights += static_cast<double>(stage.matrix_parameters * stage.steps) /
               static_cast<double>(cost.patch);
  return {.compute = compute,
          .samples = options.samples,
          .bytes = bytes,
          .runs = times.size(),
          .run_seconds = median(times),
          .weight_bytes = weights * static_cast<double>(size_of(compute))};
}

// The machine itself: a sum of two arrays far larger than any cache.
double memory_ceiling(Backend& backend) {
  constexpr int64_t size = int64_t{1} << 25;  // 128 MiB each
  Buffer buffer = backend.allocate(3 * sizeof(float) * size);
  const auto array = [&](int64_t i) {
    return Tensor{
        buffer.data() + i * size * static_cast<int64_t>(sizeof(float)), DType::f32, {size}};
  };
  backend.zero({buffer.data(), DType::f32, {3 * size}});
  const std::vector<double> times = repeat(0.5, 3, [&] {
    backend.add(array(0), array(1), array(2));
    backend.synchronize();
  });
  return 3.0 * sizeof(float) * size / *std::min_element(times.begin(), times.end());
}

void bench(const BenchOptions& options) {
  const Preset& preset = find_preset(options.preset);
  Config config = options.config.empty() ? preset.config : load_config(options.config);
  for (const std::string& assignment : options.set) set_key(config, assignment);
  const std::string name = options.config.empty() ? options.preset : options.config;
  validate(config, name);
  const auto backend = options.device.backend();
  const bool both = options.train == options.generate;
  std::optional<TrainSettings> settings;
  if (both || options.train)
    settings =
        training_settings(options, options.batch > 0 ? options.batch : preset.batch, *backend);

  // Training last of the two, so that the peak of memory is its own; the ceilings after that.
  std::optional<GenerateBench> generation;
  std::optional<TrainBench> training;
  if (both || options.generate) generation = bench_generation(options, config, *backend);
  if (settings) training = bench_training(options, config, *settings, *backend);
  std::vector<DType> types;
  for (const DType type : {DType::f32, DType::bf16})
    if (backend->fast(type)) types.push_back(type);
  nlohmann::ordered_json products;
  for (const DType type : types) products[name_of(type)] = product_ceiling(*backend, type, 2048, 1);
  const double memory = memory_ceiling(*backend);

  nlohmann::ordered_json out{{"model", name},
                             {"device", backend->name()},
                             {"machine", backend->description()},
                             {"product_flops_per_s", products},
                             {"memory_bytes_per_s", memory}};
  if (!options.json) {
    fmt::print("{}: {}\n", backend->name(), backend->description());
    for (const auto& [type, flops] : products.items())
      fmt::print("{:<12} {:>12}  product of 2048 x 2048 matrices, {}\n", "ceiling",
                 scaled(flops.get<double>(), "FLOP/s"), type);
    fmt::print("{:<12} {:>12}  sum of two arrays of 128 MiB\n", "ceiling", scaled(memory, "B/s"));
  }
  if (training) {
    const double flops = training->flops_per_byte * training->bytes_per_s();
    const std::string& type = training->dtype;
    std::optional<double> share;
    if (products.contains(type)) share = flops / products[type].get<double>();
    out["train"] = {{"dtype", type},
                    {"batch", training->batch},
                    {"length", training->length},
                    {"steps", training->steps},
                    {"bytes_per_s", training->bytes_per_s()},
                    {"flops_per_s", flops},
                    {"peak_memory", training->peak_memory},
                    {"host_peak_memory", training->host_peak_memory}};
    if (share) out["train"]["share_of_peak"] = *share;
    if (!options.json)
      fmt::print(
          "{:<12} {:>12}  {}, {}, {} x {} bytes a step, median of {}; {}{}; peak "
          "memory {}{}\n",
          "training", scaled(training->bytes_per_s(), "B/s"), name, type, training->batch,
          training->length, training->steps, scaled(flops, "FLOP/s"),
          share ? fmt::format(", {:.0f}% of the ceiling", *share * 100) : "",
          memory_size(static_cast<double>(training->peak_memory)),
          training->peak_memory == training->host_peak_memory
              ? ""
              : fmt::format(" of the device, {} of the host",
                            memory_size(static_cast<double>(training->host_peak_memory))));
  }
  if (generation) {
    out["generate"] = {{"dtype", name_of(generation->compute)},
                       {"samples", generation->samples},
                       {"bytes", generation->bytes},
                       {"runs", generation->runs},
                       {"bytes_per_s", generation->bytes_per_s()},
                       {"weight_bytes_per_s", generation->weights_per_s()}};
    if (!options.json)
      fmt::print(
          "{:<12} {:>12}  {}, {}, {} sample{} of {} bytes, median of {}; {} of "
          "weights\n",
          "generation", scaled(generation->bytes_per_s(), "B/s"), name,
          name_of(generation->compute), generation->samples, generation->samples == 1 ? "" : "s",
          generation->bytes, generation->runs, scaled(generation->weights_per_s(), "B/s"));
  }
  if (options.json) fmt::print("{}\n", out.dump(2));
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      app.add_subcommand("bench", "measure training and generation beside this machine's ceilings");
  command->add_option("--preset", options->preset, "the model (megabyte info --presets)")
      ->capture_default_str();
  command->add_option("--config", options->config, "the model by its config.json");
  command->add_option("--set", options->set, "change a key of the config: stages.1.layers=4");
  command->add_flag("--train", options->train, "training only");
  command->add_flag("--generate", options->generate, "generation only");
  command->add_option("--batch", options->batch, "rows of a training step; default the preset's")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--micro-batch", options->micro_batch,
                   "rows that go through the model at once; default all of the step")
      ->check(CLI::PositiveNumber);
  command->add_flag("--checkpoint-activations", options->checkpoint,
                    "train with activation checkpointing");
  command->add_option("--samples", options->samples, "samples generated side by side")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--bytes", options->bytes, "bytes of each sample, at most the context")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "time to measure each, after warm-up")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", options->json, "for programs");
  options->device.add_to(
      *command, "default bf16 for training where the hardware multiplies it, else f32", true);
  command->callback([options] { bench(*options); });
}

}  // namespace megabyte::cli
