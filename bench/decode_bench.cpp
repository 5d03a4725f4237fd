// Speed of decoding steps: microseconds of a block, in a whole stack where the backend has that and
// operation by operation, and of each operation, and how fast that streams the weights, in the
// stages of the paper's generation model.
//   decode_bench DEVICE DTYPE [BATCH ...]     BATCH: 1 4 16 64
// With a preset, speed of decoding that model byte by byte in the long run: from a slide of the
// context to the next, every thread with rows of its own:
//   decode_bench DEVICE DTYPE --preset NAME [--set KEY=VALUE] [--threads N] [BATCH ...]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "generate/decoder.h"
#include "layers/block_decode.h"
#include "model/presets.h"

namespace megabyte::bench {
namespace {

// A stage at one of its positions.
struct Stage {
  const char* name;
  int64_t layers, dim, heads, length, position;
};
constexpr Stage kStages[] = {{"local D1024", 15, 1024, 16, 8, 4},
                             {"global D2048", 24, 2048, 32, 1024, 512}};

struct Layer {
  BlockWeights weights;
  BlockCache cache;
};

class Blocks {
 public:
  Blocks(Backend& backend, DType compute, const Stage& stage, int64_t batch)
      : backend_(backend), stage_(stage) {
    shape_.attention = {.sequences = 1,
                        .length = stage.length,
                        .queries = stage.length,
                        .heads = stage.heads,
                        .head_dim = stage.dim / stage.heads};
    shape_.ffn = 4 * stage.dim;
    shape_.compute = compute;
    shape_.residual = backend.residual_dtype(compute);
    step_.attention = {.batch = batch,
                       .heads = stage.heads,
                       .head_dim = stage.dim / stage.heads,
                       .capacity = stage.length,
                       .position = stage.position,
                       .first = 0};
    Arena measure;
    plan(measure, batch);
    buffer_ = backend.allocate(measure.peak());
    Arena arena(buffer_.data());
    plan(arena, batch);
    fill();
  }

  // Bytes of weights that a step of a block reads.
  double bytes(int64_t matrix_rows = 12) const {
    return static_cast<double>(matrix_rows * stage_.dim * stage_.dim) *
           static_cast<double>(size_of(shape_.compute));
  }
  void all() {
    Pending h{x_, scratch_.delta, {}};
    for (const Layer& l : layers_)
      h = block_decode(backend_, shape_, step_, l.weights, l.cache, h, scratch_);
  }
  // Is there such a thing?
  bool has_stack() {
    return backend_.decode_stack(step_.attention, decode_stack(), x_, scratch_.delta,
                                 scratch_.sums[0], scratch_.norm);
  }
  void stack() { has_stack(); }
  void qkv() {
    for (const Layer& l : layers_) norm_linear(l.weights.qkv_weight, scratch_.qkv, l);
  }
  void attention() {
    for (const Layer& l : layers_)
      backend_.attention_decode(step_.attention, scratch_.qkv, l.cache.keys, l.cache.values,
                                scratch_.attended);
  }
  void out() {
    for (const Layer& l : layers_)
      backend_.linear_forward(scratch_.attended, l.weights.out_weight.value,
                              l.weights.out_bias.value, Activation::none, {}, scratch_.delta);
  }
  void up() {
    for (const Layer& l : layers_) norm_linear(l.weights.up_weight, scratch_.hidden, l);
  }
  void down() {
    for (const Layer& l : layers_)
      backend_.linear_forward(scratch_.hidden, l.weights.down_weight.value,
                              l.weights.down_bias.value, Activation::none, {}, scratch_.delta);
  }
  int64_t layers() const { return stage_.layers; }

 private:
  DecodeStack decode_stack() const {
    return {stack_, shape_.activation, shape_.eps, layers_[0].weights.norm1_weight.value,
            layers_[0].weights.norm1_bias.value};
  }
  void norm_linear(const Weight& w, const Tensor& y, const Layer& l) {
    backend_.norm_linear(x_, scratch_.delta, l.weights.norm1_weight.value,
                         l.weights.norm1_bias.value, shape_.eps, w.value, {}, Activation::none,
                         scratch_.sums[0], scratch_.norm, y);
  }
  void plan(Arena& arena, int64_t batch) {
    const int64_t D = stage_.dim, F = shape_.ffn;
    const DType master = master_dtype(shape_.compute);
    const auto vector = [&](int64_t n) { return Weight{arena.make({n}, master), {}}; };
    const auto matrix = [&](int64_t n, int64_t k) {
      return Weight{arena.make({n, k}, shape_.compute), {}};
    };
    layers_.clear();
    for (int64_t i = 0; i < stage_.layers; ++i)
      layers_.push_back({{.norm1_weight = vector(D),
                          .norm1_bias = vector(D),
                          .qkv_weight = matrix(3 * D, D),
                          .qkv_bias = vector(3 * D),
                          .out_weight = matrix(D, D),
                          .out_bias = vector(D),
                          .norm2_weight = vector(D),
                          .norm2_bias = vector(D),
                          .up_weight = matrix(F, D),
                          .up_bias = vector(F),
                          .down_weight = matrix(D, F),
                          .down_bias = vector(D)},
                         plan_block_cache(arena, shape_, batch, stage_.length)});
    x_ = arena.make({batch, D}, shape_.residual);
    scratch_ = plan_block_decode(arena, shape_, batch);
    stack_.clear();
    for (const Layer& l : layers_) stack_.push_back(decode_block(l.weights, l.cache));
  }
  // Small random numbers, the same piece again and again.
  void fill() {
    constexpr int64_t kPiece = int64_t{1} << 22;
    Random random(1, 2);
    std::vector<float> values(kPiece);
    for (float& v : values) v = 0.02f * static_cast<float>(random.normal());
    const Buffer wide = backend_.allocate(kPiece * sizeof(float));
    const Tensor piece{wide.data(), DType::f32, {kPiece}};
    backend_.from_host(piece, values.data());
    const auto fill_one = [&](const Tensor& t) {
      const Tensor flat = t.view({t.size()});
      for (int64_t at = 0; at < flat.size(); at += kPiece) {
        const int64_t count = std::min(kPiece, flat.size() - at);
        backend_.convert(piece.slice(0, count), flat.slice(at, count));
      }
    };
    for (const Layer& l : layers_) {
      const BlockWeights& w = l.weights;
      for (const Weight* x :
           {&w.norm1_weight, &w.norm1_bias, &w.qkv_weight, &w.qkv_bias, &w.out_weight, &w.out_bias,
            &w.norm2_weight, &w.norm2_bias, &w.up_weight, &w.up_bias, &w.down_weight, &w.down_bias})
        fill_one(x->value);
      fill_one(l.cache.keys);
      fill_one(l.cache.values);
    }
    for (const Tensor& t : {x_, scratch_.delta, scratch_.qkv, scratch_.attended, scratch_.hidden})
      fill_one(t);
    backend_.synchronize();
  }

  Backend& backend_;
  Stage stage_;
  BlockShape shape_;
  BlockStep step_{};
  Buffer buffer_;
  std::vector<Layer> layers_;
  std::vector<DecodeBlock> stack_;
  BlockDecodeScratch scratch_;
  Tensor x_;
};

// Median microseconds of `work`, recorded where the backend can.
double microseconds(Backend& backend, const std::function<void()>& work) {
  work();  // may allocate
  backend.synchronize();
  const std::unique_ptr<Recording> recording = backend.record(work, 1);
  std::vector<double> times;
  constexpr int kReplays = 10;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < kReplays; ++j) recording ? recording->replay() : work();
    backend.synchronize();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - begin;
    times.push_back(taken.count() / kReplays);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void run(const std::string& device, DType compute, const std::vector<int64_t>& batches) {
  const std::unique_ptr<Backend> backend = make_backend(device);
  fmt::print("{}\n{:<14} {:>5} {:>14} {:>14}", backend->description(), "stage", "batch", "stack",
             "block");
  for (const char* name : {"norm+qkv", "attention", "out", "norm+up", "down"})
    fmt::print(" {:>14}", name);
  fmt::print("   (us, GB/s of weights)\n");
  for (const Stage& stage : kStages)
    for (const int64_t batch : batches) {
      Blocks blocks(*backend, compute, stage, batch);
      const auto time = [&](void (Blocks::*part)()) {
        return microseconds(*backend, [&] { (blocks.*part)(); }) /
               static_cast<double>(blocks.layers());
      };
      fmt::print("{:<14} {:>5}", stage.name, batch);
      if (blocks.has_stack()) {
        const double us = time(&Blocks::stack);
        fmt::print(" {:>8.2f} {:>5.0f}", us, blocks.bytes() / us * 1e-3);
      } else {
        fmt::print(" {:>14}", "-");
      }
      const std::pair<void (Blocks::*)(), int64_t> parts[] = {
          {&Blocks::all, 12}, {&Blocks::qkv, 3}, {&Blocks::attention, 0},
          {&Blocks::out, 1},  {&Blocks::up, 4},  {&Blocks::down, 4}};
      for (const auto& [part, rows] : parts) {
        const double us = time(part);
        fmt::print(" {:>8.2f} {:>5.0f}", us, blocks.bytes(rows) / us * 1e-3);
      }
      fmt::print("\n");
      std::fflush(stdout);
    }
}

struct Cost {
  double wall = 0, processor = 0;  // microseconds a byte
};

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The bytes' values do not matter to the time that they take.
Cost decode(const Hierarchy& model, int64_t batch) {
  const Config& config = model.config();
  const int64_t patches = config.stages.front().length;  // an eighth is kept, as archives do
  const int64_t kept = std::max<int64_t>(1, patches / 8) * config.patch_bytes(0);
  Decoder decoder(model, batch, {}, kept);
  const std::vector<uint16_t> before(static_cast<size_t>(batch * (config.context() - 1)));
  decoder.prompt(before.data(), config.context() - 1);
  std::vector<uint16_t> tokens(static_cast<size_t>(batch));
  std::vector<float> logits(static_cast<size_t>(batch * config.vocab_size));
  decoder.advance();
  decoder.accept(tokens.data());  // the context is full
  const int64_t steps = config.context() - kept;
  const double spent = thread_seconds();
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t t = 0; t < steps; ++t) {
    model.backend().to_host(logits.data(), decoder.advance());
    for (size_t b = 0; b < tokens.size(); ++b)
      tokens[b] = static_cast<uint16_t>((t * 7 + static_cast<int64_t>(b) * 13) % 97);
    decoder.accept(tokens.data());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  const double scale = 1e6 / static_cast<double>(batch * steps);
  return {taken.count() * scale, (thread_seconds() - spent) * scale};
}

void run_model(const std::string& device, DType compute, const std::string& name,
               const Config& config, int threads, const std::vector<int64_t>& batches) {
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<std::unique_ptr<Hierarchy>> models;
  for (int i = 0; i < threads; ++i) {
    backends.push_back(make_backend(device, 1));
    models.push_back(std::make_unique<Hierarchy>(config, *backends.back(), compute, false));
    models.back()->parameters().initialize(1);
  }
  fmt::print("{}, {} times; {}, {} parameters, context {}\n{:>6} {:>12} {:>16}\n",
             backends.front()->description(), threads, name, parameter_count(config),
             config.context(), "batch", "KB/s in all", "CPU us a byte");
  for (const int64_t batch : batches) {
    std::vector<double> speeds, costs;  // of rounds
    for (int round = 0; round < 3; ++round) {
      std::vector<Cost> each(static_cast<size_t>(threads));
      std::vector<std::thread> workers;
      for (size_t i = 0; i < each.size(); ++i)
        workers.emplace_back(
            [&model = *models[i], &cost = each[i], batch] { cost = decode(model, batch); });
      for (std::thread& worker : workers) worker.join();
      double speed = 0, processor = 0;
      for (const Cost& cost : each) {
        speed += 1 / cost.wall;
        processor += cost.processor / threads;
      }
      speeds.push_back(speed);
      costs.push_back(processor);
    }
    std::sort(speeds.begin(), speeds.end());
    std::sort(costs.begin(), costs.end());
    fmt::print("{:>6} {:>12.1f} {:>16.2f}\n", batch, speeds[1] * 1e3, costs[1]);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace megabyte::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr,
               "usage: decode_bench DEVICE DTYPE [--preset NAME [--set KEY=VALUE] [--threads N]] "
               "[BATCH ...]\n");
    return 2;
  }
  try {
    std::vector<int64_t> batches;
    std::string name;
    megabyte::Config config;
    int threads = 1;
    for (int i = 3; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--preset" && i + 1 < argc)
        config = megabyte::find_preset(name = argv[++i]).config;
      else if (word == "--set" && i + 1 < argc)
        megabyte::set_key(config, argv[++i]);
      else if (word == "--threads" && i + 1 < argc)
        threads = std::atoi(argv[++i]);
      else
        batches.push_back(std::atoll(argv[i]));
    }
    if (batches.empty()) batches = {1, 4, 16, 64};
    const megabyte::DType compute = megabyte::dtype_from_name(argv[2]);
    if (name.empty()) {
      megabyte::bench::run(argv[1], compute, batches);
    } else {
      megabyte::validate(config, "--set");
      megabyte::bench::run_model(argv[1], compute, name, config, threads, batches);
    }
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
