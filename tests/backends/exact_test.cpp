// The exact backend gives the same bits with every instruction set, number of threads and batch,
// and the ones it has always given.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "backends/exact/frequencies.h"
#include "backends/exact/kernels.h"
#include "backends/exact/rotary_table.h"
#include "backends/factories.h"
#include "base/random.h"
#include "generate/decoder.h"
#include "support/configs.h"
#include "support/errors.h"
#include "support/models.h"

namespace megabyte {
namespace {

// The specification's e^x (docs/exact.md, section 2), one number at a time.
float exponential(float x) {
  constexpr float kRounder = 0x1.8p23f;
  x = x > -86.0f ? x : -86.0f;
  x = x < 88.0f ? x : 88.0f;
  const float t = std::fma(x, 0x1.715476p+0f, kRounder), n = t - kRounder;
  float r = std::fma(-n, 0x1.62e430p-1f, x);
  r = std::fma(-n, -0x1.05c610p-29f, r);
  float p = 0x1.6a2318p-10f;
  for (const float c : {0x1.123a8ep-7f, 0x1.5558f6p-5f, 0x1.555490p-3f, 0x1.fffffcp-2f, 1.0f, 1.0f})
    p = std::fma(p, r, c);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(t) << 23));
}

using testing::HasSubstr;

// FNV-1a, 64 bits.
uint64_t hash_of(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325) {
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  return hash;
}

// Weights that no library's functions were needed for.
void fill(Backend& backend, const Parameters& parameters) {
  for (const ParameterSpec& spec : parameters.specs()) {
    Random random(hash_of(spec.name.data(), spec.name.size()), 0);
    std::vector<float> values(static_cast<size_t>(spec.shape.size()));
    for (float& x : values)
      x = (static_cast<float>(random.below(1 << 16)) - 0x1p15f) * 0x1p-16f +
          (spec.kind == ParameterKind::norm_weight ? 1.0f : 0.0f);
    backend.from_host(parameters.master(spec.name), values.data());
  }
}

struct ExactModel {
  std::unique_ptr<Backend> backend;
  Hierarchy model;

  ExactModel(const Config& config, int threads, const std::string& kernels)
      : backend(make_exact_backend(threads, kernels)), model(config, *backend, DType::f32, false) {
    fill(*backend, model.parameters());
  }
};

// Of the logits of two rows of bytes in one forward, in the order (row, byte, symbol).
uint64_t logits_hash(ExactModel& m) {
  const Config& config = m.model.config();
  const std::vector<uint16_t> tokens = test::random_tokens(config, 2 * config.context(), 4);
  m.model.prepare({.batch = 2, .length = config.context()});
  m.model.load(tokens.data());
  m.model.forward();
  std::vector<double> logits;
  m.model.copy_logits(logits);
  const std::vector<float> narrow(logits.begin(), logits.end());
  return hash_of(narrow.data(), narrow.size() * sizeof(float));
}

// The same, byte by byte, for a batch that holds the two rows `copies` times.
uint64_t decoded_hash(ExactModel& m, int64_t copies) {
  const Config& config = m.model.config();
  const int64_t T = config.context(), V = config.vocab_size, batch = 2 * copies;
  const std::vector<uint16_t> tokens = test::random_tokens(config, 2 * T, 4);
  Decoder decoder(m.model, batch);
  std::vector<float> all(static_cast<size_t>(2 * T * V)), step(static_cast<size_t>(batch * V));
  for (int64_t t = 0; t < T; ++t) {
    m.backend->to_host(step.data(), decoder.advance());
    std::vector<uint16_t> bytes;
    for (int64_t b = 0; b < batch; ++b) {
      const float* row = step.data() + b * V;
      float* kept = all.data() + (b % 2 * T + t) * V;
      if (b < 2)
        std::copy_n(row, V, kept);
      else
        EXPECT_EQ(std::memcmp(row, kept, static_cast<size_t>(V) * sizeof(float)), 0) << b;
      bytes.push_back(tokens[static_cast<size_t>(b % 2 * T + t)]);
    }
    decoder.accept(bytes.data());
  }
  return hash_of(all.data(), all.size() * sizeof(float));
}

Config config_of(const std::string& name) {
  for (const test::NamedConfig& each : test::small_configs())
    if (each.name == name) return each.config;
  ADD_FAILURE() << name;
  return {};
}

// Wide enough that whole vectors, tiles and what remains of them all take part.
Config wide_config() {
  return {.vocab_size = 257,
          .activation = Activation::gelu,
          .tie_embeddings = false,
          .stages = {{.length = 20, .dim = 120, .layers = 1, .heads = 2, .ffn = 152},
                     {.length = 4,
                      .dim = 88,
                      .layers = 2,
                      .heads = 2,
                      .ffn = 200,
                      .positions = Positions::rotary,
                      .cross_patch = 6,
                      .encoder_layers = 1}}};
}

class ExactKernels : public testing::TestWithParam<const exact::Kernels*> {
 protected:
  const exact::Kernels& kernels() const { return *GetParam(); }
};

// The numbers themselves (docs/exact.md): whoever changes one of these changes the format.
TEST_P(ExactKernels, LogitsAreTheOnesTheyHaveAlwaysBeen) {
  const std::map<std::string, uint64_t> pins{{"paper", 0x36ab1dfa54ad50fe},
                                             {"hourglass", 0x42b468045cb2a7c1},
                                             {"patch_encoder", 0x656c2bf74ac4f476},
                                             {"linear_local", 0xcf8c513ae7847374},
                                             {"wide", 0xc348bf8dac7aacae}};
  for (const auto& [name, pin] : pins)
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, {} threads", name, threads));
      ExactModel m(name == "wide" ? wide_config() : config_of(name), threads, kernels().name);
      EXPECT_EQ(fmt::format("{:#x}", logits_hash(m)), fmt::format("{:#x}", pin));
      for (const int64_t copies : {1, 5})
        EXPECT_EQ(fmt::format("{:#x}", decoded_hash(m, copies)), fmt::format("{:#x}", pin));
    }
}

TEST_P(ExactKernels, ExponentialsAreThoseOfTheOneNumber) {
  Random random(3, 0);
  std::vector<float> x{0,      -0.0f, 1,         -86,           88,        89,
                       -1e30f, 1e30f, 0x1p-149f, std::nanf(""), HUGE_VALF, -HUGE_VALF};
  while (x.size() < 4099) x.push_back(static_cast<float>(20 * random.normal()));
  std::vector<float> y(x.size());
  kernels().exponentials(x.data(), std::ssize(x), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(exponential(x[i]))) << x[i];
    if (std::abs(x[i]) <= 86) {
      EXPECT_NEAR(y[i] / std::exp(static_cast<double>(x[i])), 1, 1e-7);
    }
  }
  EXPECT_EQ(exponential(0.0f), 1);
}

// Sums reach their largest magnitude, where saturating instructions would show.
TEST_P(ExactKernels, ProductsAreExact) {
  for (const auto& [M, K, N] : {std::tuple{1, 16, 16}, {3, 1030, 5}, {9, 37, 49}, {19, 64, 64}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", M, K, N));
    Random random(static_cast<uint64_t>(K), 0);
    std::vector<float> x(static_cast<size_t>(M * K)), y(static_cast<size_t>(M * N));
    std::vector<int8_t> w(static_cast<size_t>(N * K));
    const auto draw = [&] {
      return random.below(2) == 0 ? 127 : static_cast<int>(random.below(255)) - 127;
    };
    for (float& v : x) v = static_cast<float>(draw());
    for (int m = 0; m < M; ++m) x[static_cast<size_t>(m * K)] = 127;  // so that the scale is 1
    for (int8_t& v : w) v = static_cast<int8_t>(draw());
    std::vector<std::byte> packed(kernels().packed_bytes(N, K)),
        scratch(kernels().linear_scratch(M, K));
    kernels().pack(w.data(), N, K, packed.data());
    const std::vector<float> scales(static_cast<size_t>(N + 15), 1.0f);
    kernels().linear({.x = x.data(),
                      .w = {packed.data(), scales.data(), N, K},
                      .bias = nullptr,
                      .act = exact::Act::none,
                      .y = y.data()},
                     0, M, 0, (N + kernels().block - 1) / kernels().block, scratch.data());
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) {
        int64_t sum = 0;
        for (int k = 0; k < K; ++k)
          sum += static_cast<int64_t>(x[static_cast<size_t>(m * K + k)]) *
                 w[static_cast<size_t>(n * K + k)];
        ASSERT_EQ(y[static_cast<size_t>(m * N + n)], static_cast<float>(sum)) << m << ' ' << n;
      }
  }
}

TEST_P(ExactKernels, FrequenciesAreThoseOfTheSpecification) {
  for (const int64_t vocab : {1, 5, 16, 256, 257}) {
    Random random(static_cast<uint64_t>(vocab), 0);
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& x : logits) x = static_cast<float>(6 * random.normal());
    if (vocab == 5) logits[1] = std::nanf("");
    std::vector<uint32_t> got(logits.size());
    kernels().frequencies(logits.data(), vocab, got.data());
    float top = -HUGE_VALF;
    for (const float x : logits) top = x > top ? x : top;
    for (size_t i = 0; i < logits.size(); ++i)
      EXPECT_EQ(got[i], 1 + static_cast<uint32_t>(0x1p22f * exponential(logits[i] - top))) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Machine, ExactKernels, testing::ValuesIn(exact::available_kernels()),
                         [](const auto& kernels) { return kernels.param->name; });

TEST(Exact, RotaryPositionsAreCosinesAndSines) {
  for (const int64_t position : {0, 1, 2, 3, 63, 1000, 65537, 1228800})
    for (int64_t pair = 0; pair < 32; ++pair) {
      const exact::Turn turn = exact::rotary_turn(position, pair, 64);
      const double angle =
          static_cast<double>(position) * std::pow(10000.0, -2.0 * static_cast<double>(pair) / 64);
      EXPECT_NEAR(turn.cosine, std::cos(angle), 6e-8) << position << ' ' << pair;
      EXPECT_NEAR(turn.sine, std::sin(angle), 6e-8) << position << ' ' << pair;
    }
}

// 8 bits cost a little, and no more.
TEST(Exact, LogitsAreNearlyThoseOfTheModel) {
  for (const test::NamedConfig& each : test::small_configs()) {
    if (each.name == "linear_cross_patch" || each.name == "linear_hourglass") continue;  // refused
    SCOPED_TRACE(each.name);
    test::WideModel exact(each.config, "exact", DType::f32),
        wide(each.config, "reference", DType::f32);
    const auto tokens = test::random_tokens(each.config, 2 * each.config.context(), 4);
    EXPECT_LT(test::relative_error(test::full_logits(exact.model, tokens, 2),
                                   test::full_logits(wide.model, tokens, 2)),
              0.05);
  }
}

// A matrix is packed once, and anew when its memory holds another.
TEST(Exact, WeightsThatChangeAreReadAgain) {
  const auto backend = make_exact_backend(1);
  const auto product = [&](const Tensor& w, float value) {
    const std::vector<float> row(16, value);
    backend->from_host(w, row.data());
    float x[16] = {127}, y = 0;
    backend->linear_forward({x, DType::f32, {1, 16}}, w, {}, Activation::none, {},
                            {&y, DType::f32, {1, 1}});
    return y;
  };
  for (const float value : {127.0f, 254.0f, 127.0f}) {  // most often in the same place
    const Buffer buffer = backend->allocate(1 << 16);
    const Tensor w{buffer.data(), DType::f32, {1, 16}};
    EXPECT_EQ(product(w, value), 127 * value);
    EXPECT_EQ(product(w, -value), -127 * value);
  }
}

// What is not finite becomes the same everywhere, too.
TEST(Exact, RowsThatAreNotFiniteCountAsZeros) {
  for (const exact::Kernels* kernels : exact::available_kernels()) {
    const auto backend = make_exact_backend(1, kernels->name);
    for (const float x : {HUGE_VALF, -HUGE_VALF, std::nanf(""), 0x1p-101f}) {
      std::vector<float> row(20, 1.0f), w(20, 1.0f);
      if (x < 1 && x > 0) std::fill(row.begin(), row.end(), x);
      row[17] = x;
      float bias = 0.5f, y = 0;
      backend->linear_forward({row.data(), DType::f32, {1, 20}}, {w.data(), DType::f32, {1, 20}},
                              {&bias, DType::f32, {1}}, Activation::none, {},
                              {&y, DType::f32, {1, 1}});
      EXPECT_EQ(y, 0.5f) << x;
    }
  }
}

TEST(Exact, DoesNotTrain) {
  const auto backend = make_backend("exact", 1);
  Hierarchy model(config_of("paper"), *backend, DType::f32, true);
  fill(*backend, model.parameters());
  const auto tokens = test::random_tokens(model.config(), 24, 4);
  model.prepare({.batch = 1, .length = 24, .training = true});
  model.load(tokens.data());
  EXPECT_THAT(test::error_of([&] { model.forward(); }), HasSubstr("only runs models forward"));
}

TEST(Exact, UnknownKernelsAreAnError) {
  EXPECT_THAT(test::error_of([] { make_exact_backend(1, "abacus"); }),
              HasSubstr("does not run the exact backend's abacus kernels"));
}

}  // namespace
}  // namespace megabyte
