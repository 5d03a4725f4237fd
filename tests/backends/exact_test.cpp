// The exact backend gives the same bits with every instruction set, number of threads and batch,
// and the ones it has always given.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "backends/exact/frequencies.h"
#include "backends/exact/kernels.h"
#include "backends/exact/rotary_table.h"
#include "backends/factories.h"
#include "base/random.h"
#include "support/configs.h"
#include "support/errors.h"
#include "support/exact_models.h"
#include "support/model_folder.h"
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

class ExactKernels : public testing::TestWithParam<const exact::Kernels*> {
 protected:
  const exact::Kernels& kernels() const { return *GetParam(); }
};

// The numbers themselves (docs/exact.md): whoever changes one of these changes the format.
TEST_P(ExactKernels, LogitsAreTheOnesTheyHaveAlwaysBeen) {
  for (const test::PinnedModel& pinned : test::pinned_models())
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, {} threads", pinned.name, threads));
      test::ExactModel m(pinned.config, make_exact_backend(threads, kernels().name));
      test::expect_pinned(m, pinned);
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

// Sixteen accumulators over n terms, term i added by add(accumulator, i), and their sum in pairs.
template <class Add>
float lanes(int64_t n, const Add& add) {
  float acc[16] = {};
  for (int64_t i = 0; i < n; ++i) acc[i % 16] = add(acc[i % 16], i);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) acc[i] += acc[i + half];
  return acc[0];
}

TEST_P(ExactKernels, AttentionIsThatOfTheSpecification) {
  constexpr int64_t kHeads = 3;
  for (const int64_t d : {8, 16, 32, 40, 64, 80})
    for (const int64_t visible : {1, 9, 16, 17, 31, 40}) {
      SCOPED_TRACE(fmt::format("{} wide, {} visible", d, visible));
      const int64_t capacity = visible + 3, slot = visible - 1;  // from one row before the end
      Random random(static_cast<uint64_t>(d * visible), 0);
      const auto draw = [&](int64_t count) {
        std::vector<float> x(static_cast<size_t>(count));
        for (float& v : x) v = static_cast<float>(random.normal());
        return x;
      };
      const std::vector<float> q = draw(kHeads * d), k = draw(kHeads * capacity * d),
                               v = draw(kHeads * capacity * d);
      std::vector<float> out(q.size()),
          scratch(static_cast<size_t>(kHeads * (exact::padded(d) + exact::padded(visible))));
      const float scale = 1.0f / std::sqrt(static_cast<float>(d));
      kernels().attend({.q = q.data(),
                        .k = k.data(),
                        .v = v.data(),
                        .heads = kHeads,
                        .dim = d,
                        .stride = d,
                        .head_stride = capacity * d,
                        .slot = slot,
                        .capacity = capacity,
                        .visible = visible,
                        .scale = scale,
                        .linear = false,
                        .out = out.data()},
                       scratch.data());
      for (int64_t h = 0; h < kHeads; ++h) {
        const auto row = [&](int64_t j) { return (h * capacity + (slot + j) % capacity) * d; };
        std::vector<float> weights(static_cast<size_t>(visible));
        float top = -HUGE_VALF;
        for (int64_t j = 0; j < visible; ++j) {
          float& score = weights[static_cast<size_t>(j)];
          score = lanes(d, [&](float acc, int64_t c) {
            return std::fma(q[static_cast<size_t>(h * d + c)] * scale,
                            k[static_cast<size_t>(row(j) + c)], acc);
          });
          top = score > top ? score : top;
        }
        for (float& w : weights) w = exponential(w - top);
        const float inverse = 1.0f / lanes(visible, [&](float acc, int64_t j) {
                                return acc + weights[static_cast<size_t>(j)];
                              });
        for (int64_t c = 0; c < d; ++c) {
          float acc = 0;
          for (int64_t j = 0; j < visible; ++j)
            acc =
                std::fma(weights[static_cast<size_t>(j)], v[static_cast<size_t>(row(j) + c)], acc);
          ASSERT_EQ(out[static_cast<size_t>(h * d + c)], acc * inverse) << h << ' ' << c;
        }
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
  Hierarchy model(test::small_config("paper"), *backend, DType::f32, true);
  test::fill_exactly(*backend, model.parameters());
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
