// Speed of single operations: on the cpu backend at the shapes of the presets `tiny` and `small`,
// on a device attention over long sequences.
//   build/bench/ops_bench --benchmark_filter=bf16
//   build/bench/ops_bench --device cuda
// --device NAME or --threads N, if given, comes first.
// Counters: GFLOP/s of products and attention, GB/s of memory touched for all others.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <random>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "ops/ops.h"

namespace megabyte {
namespace {

std::string device = "cpu";
int threads = 0;  // all

Backend& backend() {
  static const auto instance = make_backend(device, threads);
  return *instance;
}

// Tensors of one benchmark, filled with normal numbers.
class Tensors {
 public:
  Tensor make(const Shape& shape, DType dtype, float stddev = 1.0f) {
    buffers_.push_back(backend().allocate(static_cast<size_t>(shape.size()) * size_of(dtype)));
    const Tensor t{buffers_.back().data(), dtype, shape};
    if (dtype == DType::u16) {
      std::vector<uint16_t> tokens(static_cast<size_t>(t.size()));
      for (uint16_t& token : tokens) token = static_cast<uint16_t>(random_() % 256);
      backend().from_host(t, tokens.data());
    } else if (dtype == DType::f64) {
      backend().zero(t);
    } else {
      std::normal_distribution<float> normal(0.0f, stddev);
      std::vector<float> values(static_cast<size_t>(std::min(t.size(), kDrawn)));
      for (float& value : values) value = normal(random_);
      const Buffer wide = backend().allocate(values.size() * sizeof(float));
      for (int64_t at = 0; at < t.size(); at += kDrawn) {  // the same numbers again and again
        const Tensor part{wide.data(), DType::f32, {std::min(t.size() - at, kDrawn)}};
        backend().from_host(part, values.data());
        backend().convert(part, t.view({t.size()}).slice(at, part.size()));
      }
      backend().synchronize();
    }
    return t;
  }

 private:
  static constexpr int64_t kDrawn = 1'000'003;
  std::minstd_rand random_;
  std::vector<Buffer> buffers_;
};

using Operation = std::function<void()>;
struct Cost {
  double flops = 0, bytes = 0;  // of one call; the one that is not zero is reported
};

void measure(benchmark::State& state, const Cost& cost, const Operation& operation) {
  operation();
  backend().synchronize();
  const int calls = device == "cpu" ? 1 : 10;  // a device's calls are waited for together
  while (state.KeepRunningBatch(calls)) {
    for (int i = 0; i < calls; ++i) operation();
    backend().synchronize();
  }
  const bool products = cost.flops > 0;
  state.counters[products ? "FLOP/s" : "B/s"] = benchmark::Counter(
      (products ? cost.flops : cost.bytes) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}

template <class Body>
void add(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->Unit(benchmark::kMicrosecond)->UseRealTime();
}

struct Product {
  int64_t M, N, K;
};

void add_products(DType dtype, const std::string& type) {
  const std::vector<Product> products{
      {16384, 384, 128}, {16384, 128, 128}, {16384, 512, 128}, {16384, 128, 512}, {2048, 768, 256},
      {2048, 256, 256},  {2048, 1024, 256}, {2048, 256, 1024}, {8192, 768, 256},  {8192, 1024, 256},
      {8192, 256, 1024}, {1024, 1536, 512}, {1024, 2048, 512}, {1024, 512, 2048}};
  for (const auto& [M, N, K] : products) {
    const std::string shape = fmt::format("{}/{}x{}x{}", type, M, N, K);
    const Cost cost{2.0 * static_cast<double>(M * N * K), 0};
    add("linear_forward/" + shape, [=](benchmark::State& state) {
      Tensors t;
      const Tensor x = t.make({M, K}, dtype), w = t.make({N, K}, dtype, 0.05f);
      const Tensor bias = t.make({N}, DType::f32), y = t.make({M, N}, dtype);
      measure(state, cost, [&] { backend().linear_forward(x, w, bias, Activation::none, {}, y); });
    });
    if (N > K)
      add("linear_forward_gelu/" + shape, [=](benchmark::State& state) {
        Tensors t;
        const Tensor x = t.make({M, K}, dtype), w = t.make({N, K}, dtype, 0.05f);
        const Tensor bias = t.make({N}, DType::f32), y = t.make({M, N}, dtype);
        const Tensor pre = t.make({M, N}, dtype);
        measure(state, cost,
                [&] { backend().linear_forward(x, w, bias, Activation::gelu, pre, y); });
      });
    add("linear_backward_input/" + shape, [=](benchmark::State& state) {
      Tensors t;
      const Tensor dy = t.make({M, N}, dtype), w = t.make({N, K}, dtype, 0.05f);
      const Tensor dx = t.make({M, K}, dtype);
      measure(state, cost,
              [&] { backend().linear_backward_input(dy, w, Activation::none, {}, dx); });
    });
    if (K > N)
      add("linear_backward_input_gelu/" + shape, [=](benchmark::State& state) {
        Tensors t;
        const Tensor dy = t.make({M, N}, dtype), w = t.make({N, K}, dtype, 0.05f);
        const Tensor dx = t.make({M, K}, dtype), pre = t.make({M, K}, dtype);
        measure(state, cost,
                [&] { backend().linear_backward_input(dy, w, Activation::gelu, pre, dx); });
      });
    add("linear_backward_weight/" + shape, [=](benchmark::State& state) {
      Tensors t;
      const Tensor dy = t.make({M, N}, dtype), x = t.make({M, K}, dtype);
      const Tensor dw = t.make({N, K}, DType::f32), db = t.make({N}, DType::f32);
      measure(state, cost, [&] { backend().linear_backward_weight(dy, x, dw, db); });
    });
  }
}

void add_few_row_products(DType dtype, const std::string& type) {
  for (const int64_t M : {1, 4, 16})
    for (const auto& [N, K] : std::vector<std::pair<int64_t, int64_t>>{
             {384, 128}, {128, 128}, {512, 128}, {768, 256}, {1024, 256}, {256, 1024}, {2048, 512}})
      add(fmt::format("few_rows/{}/{}x{}x{}", type, M, N, K),
          [=, N = N, K = K](benchmark::State& state) {
            Tensors t;
            const Tensor x = t.make({M, K}, dtype), w = t.make({N, K}, dtype, 0.05f);
            const Tensor bias = t.make({N}, DType::f32), y = t.make({M, N}, dtype);
            measure(state, {0, static_cast<double>(w.bytes())},
                    [&] { backend().linear_forward(x, w, bias, Activation::none, {}, y); });
          });
}

struct AttentionCase {
  std::string name;
  AttentionShape shape;
};

std::vector<AttentionCase> small_attention() {
  return {{"tiny_local", {2048, 8, 8, 4, 32}},           {"tiny_global", {16, 128, 128, 4, 64}},
          {"small_local", {1024, 8, 8, 4, 64}},          {"small_global", {8, 128, 128, 8, 64}},
          {"cross8", {2048, 8, 8, 4, 32, 128, 8}},       {"long", {1, 4096, 4096, 4, 64}},
          {"linear", {4, 1024, 1024, 4, 64, 1, 0, true}}};
}

// Of width 2048.
std::vector<AttentionCase> long_attention() {
  std::vector<AttentionCase> cases;
  for (const bool linear : {false, true})
    for (const auto& [length, sequences] :
         std::vector<std::pair<int64_t, int64_t>>{{1024, 8}, {8192, 2}, {32768, 1}})
      for (const int64_t head_dim : {64, 128})
        cases.push_back(
            {fmt::format("{}{}/head_dim{}", linear ? "linear" : "softmax", length, head_dim),
             {sequences, length, length, 2048 / head_dim, head_dim, 1, 0, linear}});
  return cases;
}

void add_attention(DType dtype, const std::string& type, const std::vector<AttentionCase>& cases) {
  for (const AttentionCase& c : cases) {
    const AttentionShape at = c.shape;
    const double keys = static_cast<double>(at.cross) + static_cast<double>(at.length + 1) / 2;
    const double pairs =
        at.linear ? static_cast<double>(at.sequences * at.length * at.head_dim * at.heads)
                  : keys * static_cast<double>(at.sequences * at.length * at.heads);
    const double flops = 4.0 * pairs * static_cast<double>(at.head_dim);
    const auto run = [=](benchmark::State& state, bool backward) {
      Tensors t;
      const int64_t M = at.sequences * at.length;
      const Tensor qkv = t.make({M, 3 * at.dim()}, dtype), out = t.make({M, at.dim()}, dtype);
      const Tensor stats = t.make({M * at.heads}, DType::f32);
      const Tensor dout = t.make({M, at.dim()}, dtype), dqkv = t.make({M, 3 * at.dim()}, dtype);
      backend().attention_forward(at, qkv, out, stats);
      if (backward)
        measure(state, {2.5 * flops, 0},
                [&] { backend().attention_backward(at, qkv, out, stats, dout, dqkv); });
      else
        measure(state, {flops, 0}, [&] { backend().attention_forward(at, qkv, out, stats); });
    };
    add(fmt::format("attention_forward/{}/{}", type, c.name),
        [=](benchmark::State& state) { run(state, false); });
    add(fmt::format("attention_backward/{}/{}", type, c.name),
        [=](benchmark::State& state) { run(state, true); });
  }
}

void add_others(DType dtype, const std::string& type) {
  const double size = static_cast<double>(size_of(dtype));
  for (const auto& [M, D] :
       std::vector<std::pair<int64_t, int64_t>>{{16384, 128}, {2048, 256}, {1, 256}}) {
    const std::string shape = fmt::format("{}/{}x{}", type, M, D);
    const double elements = static_cast<double>(M * D);
    add("residual_norm_forward/" + shape, [=, M = M, D = D](benchmark::State& state) {
      Tensors t;
      const Tensor x = t.make({M, D}, DType::f32), delta = t.make({M, D}, dtype);
      const Tensor sum = t.make({M, D}, DType::f32), y = t.make({M, D}, dtype);
      const Tensor w = t.make({D}, DType::f32), b = t.make({D}, DType::f32);
      const Tensor xhat = t.make({M, D}, dtype), rstd = t.make({M}, DType::f32);
      measure(state, {0, elements * (8 + 3 * size)}, [&] {
        backend().residual_norm_forward(x, delta, {}, w, b, 1e-5, sum, y, xhat, rstd);
      });
    });
    add("residual_norm_backward/" + shape, [=, M = M, D = D](benchmark::State& state) {
      Tensors t;
      const Tensor dy = t.make({M, D}, dtype), xhat = t.make({M, D}, dtype);
      const Tensor dsum = t.make({M, D}, DType::f32, 0.0f), ddelta = t.make({M, D}, dtype);
      const Tensor w = t.make({D}, DType::f32), b = t.make({D}, DType::f32);
      const Tensor rstd = t.make({M}, DType::f32);
      measure(state, {0, elements * (8 + 3 * size)}, [&] {
        backend().residual_norm_backward(dy, xhat, rstd, w, {}, true, dsum, ddelta, w, b);
      });
    });
  }
  add("cross_entropy/" + type, [=](benchmark::State& state) {
    Tensors t;
    const int64_t M = 16384, vocab = 256;
    const Tensor logits = t.make({M, vocab}, DType::f32), targets = t.make({M}, DType::u16);
    const Tensor losses = t.make({M}, DType::f32), dlogits = t.make({M, vocab}, dtype);
    const Tensor total = t.make({1}, DType::f64);
    measure(state, {0, static_cast<double>(M * vocab) * (4 + size)}, [&] {
      backend().cross_entropy({16, 1024, 1024, vocab, 1e-4}, logits, targets, losses, dlogits,
                              total);
    });
  });
  for (const bool shift : {false, true}) {
    const EmbedShape shape{2048, 8, 1, 128, shift};
    const double elements = 2048.0 * 8 * 128;
    add(fmt::format("embed_forward/{}/{}", type, shift ? "shift" : "plain"),
        [=](benchmark::State& state) {
          Tensors t;
          const Tensor tokens = t.make({16384}, DType::u16), table = t.make({256, 128}, dtype);
          const Tensor positions = t.make({8, 128}, dtype), pad = t.make({128}, DType::f32);
          const Tensor out = t.make({16384, 128}, DType::f32);
          measure(state, {0, elements * 4},
                  [&] { backend().embed_forward(shape, tokens, table, positions, pad, out); });
        });
    add(fmt::format("embed_backward/{}/{}", type, shift ? "shift" : "plain"),
        [=](benchmark::State& state) {
          Tensors t;
          const Tensor tokens = t.make({16384}, DType::u16);
          const Tensor table = t.make({256, 128}, DType::f32);
          const Tensor positions = t.make({8, 128}, DType::f32), pad = t.make({128}, DType::f32);
          const Tensor dout = t.make({16384, 128}, DType::f32, 1e-9f);
          measure(state, {0, elements * 4},
                  [&] { backend().embed_backward(shape, tokens, dout, table, positions, pad); });
        });
  }
  add("adamw/" + type, [=](benchmark::State& state) {
    Tensors t;
    const int64_t n = 3500000;
    const Tensor value = t.make({n}, DType::f32), grad = t.make({n}, DType::f32);
    const Tensor m = t.make({n}, DType::f32), v = t.make({n}, DType::f32);
    const Tensor copy = dtype == DType::f32 ? Tensor{} : t.make({n}, dtype);
    const Tensor norm = t.make({1}, DType::f64);
    backend().sum_of_squares(v, norm);
    measure(state, {0, static_cast<double>(n) * (28 + (copy ? size : 0))}, [&] {
      backend().adamw({1e-3, 0.9, 0.98, 1e-8, 0.1, 10, 1.0}, value, copy, grad, m, grad, norm);
    });
  });
  add("sum_of_squares/" + type, [=](benchmark::State& state) {
    Tensors t;
    const Tensor x = t.make({3500000}, dtype), total = t.make({1}, DType::f64);
    measure(state, {0, static_cast<double>(x.bytes())},
            [&] { backend().sum_of_squares(x, total); });
  });
}

}  // namespace
}  // namespace megabyte

int main(int argc, char** argv) try {
  using namespace megabyte;
  const auto whole_number = [](std::string_view text) {
    int n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size() || n < 1)
      fail("--threads {}: a whole number from 1 is needed", text);
    return n;
  };
  for (; argc > 2; argc -= 2, argv += 2) {
    if (const std::string option = argv[1]; option == "--device")
      device = argv[2];
    else if (option == "--threads")
      threads = whole_number(argv[2]);
    else
      break;
  }
  if (device == "cpu") {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      const std::string type(name_of(dtype));
      add_products(dtype, type);
      add_few_row_products(dtype, type);
      add_attention(dtype, type, small_attention());
      add_others(dtype, type);
    }
  } else {
    add_attention(DType::bf16, "bf16", long_attention());
  }
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("backend", backend().description());
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
