// Speed of training: bytes per second of whole steps, memory, and the time of each operation.
//   train_bench DEVICE DTYPE NAME [BATCH]     DTYPE: f32, bf16, fp8 (bf16 with products in fp8)
//                                             NAME: flagship, small, tiny, transformer
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "model/hierarchy.h"
#include "timed_backend.h"
#include "train/optimizer.h"

namespace megabyte::bench {
namespace {

StageConfig stage(int64_t length, int64_t dim, int64_t layers, int64_t heads, int64_t ffn) {
  StageConfig s;
  s.length = length;
  s.dim = dim;
  s.layers = layers;
  s.heads = heads;
  s.ffn = ffn;
  return s;
}

struct Model {
  std::vector<StageConfig> stages;
  int64_t batch;
};

const std::map<std::string, Model> kModels{
    {"flagship", {{stage(1024, 2048, 14, 16, 8192), stage(8, 1024, 18, 16, 4096)}, 8}},
    {"small", {{stage(1024, 768, 12, 12, 3072), stage(8, 384, 6, 6, 1536)}, 16}},
    {"tiny", {{stage(128, 256, 4, 4, 1024), stage(8, 128, 2, 4, 512)}, 16}},
    {"transformer", {{stage(8192, 1024, 22, 16, 4096)}, 8}}};

// Values like a model's after initialisation, but quick to draw for a billion parameters.
void fill(Backend& backend, const Config& config, Parameters& parameters) {
  Random random(1, 2);
  std::vector<float> values(size_t{1} << 22), ones(values.size(), 1.0f);
  for (float& x : values) x = 0.02f * static_cast<float>(random.normal());
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    const Tensor all = parameters.master(spec.name), flat = all.view({all.size()});
    const auto piece = static_cast<int64_t>(values.size());
    for (int64_t at = 0; at < flat.size(); at += piece)
      backend.from_host(flat.slice(at, std::min(piece, flat.size() - at)),
                        spec.kind == ParameterKind::norm_weight ? ones.data() : values.data());
  });
  parameters.refresh_copies();
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void print_operations(const TimedBackend& backend) {
  std::vector<std::pair<std::string, TimedBackend::Total>> rows(backend.totals.begin(),
                                                                backend.totals.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.second.milliseconds > b.second.milliseconds;
  });
  double all = 0;
  for (const auto& [name, total] : rows) all += total.milliseconds;
  fmt::print("{:<66} {:>5} {:>8} {:>8} {:>6} {:>7} {:>7}\n", "operation", "calls", "ms", "us/call",
             "share", "TFLOP/s", "GB/s");
  for (const auto& [name, t] : rows)
    fmt::print("{:<66} {:>5} {:>8.2f} {:>8.1f} {:>5.1f}% {:>7.0f} {:>7.0f}\n", name, t.calls,
               t.milliseconds, t.milliseconds * 1e3 / static_cast<double>(t.calls),
               100 * t.milliseconds / all, t.flops / t.milliseconds / 1e9,
               t.bytes / t.milliseconds / 1e6);
  fmt::print("all operations, one after another: {:.2f} ms\n", all);
}

int run(const std::string& device, const std::string& dtype, const std::string& name,
        int64_t batch) {
  const auto found = kModels.find(name);
  if (found == kModels.end()) fail("no model '{}'", name);
  Config config;
  config.stages = found->second.stages;
  if (batch == 0) batch = found->second.batch;
  TimedBackend backend(make_backend(device));
  const bool fp8 = dtype == "fp8";
  backend.use_fp8(fp8);
  Hierarchy model(config, backend, fp8 ? DType::bf16 : dtype_from_name(dtype), true);
  fill(backend, config, model.parameters());
  Optimizer optimizer(backend, model.parameters(), {});
  model.prepare({.batch = batch, .length = config.context(), .training = true});
  std::vector<uint16_t> tokens(static_cast<size_t>(batch * config.context()));
  Random random(7, 7);
  for (uint16_t& t : tokens) t = static_cast<uint16_t>(random.below(256));
  const double bytes = static_cast<double>(tokens.size());
  int64_t step = 0;
  const auto one_step = [&] {
    backend.zero(model.total());
    backend.zero(model.parameters().gradients());
    model.load(tokens.data());
    model.forward();
    model.loss(1 / bytes);
    model.backward();
    optimizer.update({.lr = 1e-4,
                      .beta1 = 0.9,
                      .beta2 = 0.98,
                      .eps = 1e-8,
                      .decay = 0.01,
                      .step = ++step,
                      .clip = 1});
  };
  std::vector<double> times;
  for (int i = 0; i < 11; ++i) {
    backend.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    one_step();
    backend.synchronize();
    if (i >= 3) times.push_back(seconds_since(begin));
  }
  std::sort(times.begin(), times.end());
  double loss = 0;
  backend.to_host(&loss, model.total());
  fmt::print("{} {} {}: {} on {}\n", name, dtype, backend.description(),
             fmt::format("{} parameters, batch {}", parameter_count(config), batch), device);
  fmt::print("median step {:.2f} ms ({:.2f} to {:.2f}): {:.0f} bytes/s; {:.2f} GiB; loss {:.4f}\n",
             1e3 * times[times.size() / 2], 1e3 * times.front(), 1e3 * times.back(),
             bytes / times[times.size() / 2],
             static_cast<double>(backend.peak_memory()) / 1073741824.0, loss / bytes);
  backend.timing = true;
  one_step();
  print_operations(backend);
  std::fflush(stdout);
  return 0;
}

}  // namespace
}  // namespace megabyte::bench

int main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: train_bench DEVICE DTYPE flagship|small|tiny|transformer [BATCH]\n");
    return 2;
  }
  try {
    return megabyte::bench::run(argv[1], argv[2], argv[3], argc > 4 ? std::atoll(argv[4]) : 0);
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
