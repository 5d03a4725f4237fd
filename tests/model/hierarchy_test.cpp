#include "model/hierarchy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "support/configs.h"
#include "support/models.h"

namespace megabyte {
namespace {

using test::NamedConfig;
using test::random_tokens;

// A model in double precision on the reference backend, with weights wide enough that every tensor
// matters.
struct Oracle {
  std::unique_ptr<Backend> backend = make_backend("reference");
  Hierarchy model;
  explicit Oracle(const Config& config) : model(config, *backend, DType::f64, true) {
    model.parameters().initialize(7, 0.4);
    // Biases and pads start at zero: give them values too.
    Random random(8, 0);
    double* values = model.parameters().values().as<double>();
    for (int64_t i = 0; i < model.parameters().values().size(); ++i)
      values[i] += 0.1 * random.normal();
  }
  double loss_and_gradient(const std::vector<uint16_t>& tokens, const BatchPlan& plan,
                           const StageDropout& dropout = {}, uint64_t draw = 0) {
    model.prepare(plan);
    backend->zero(model.total());
    if (plan.training) backend->zero(model.parameters().gradients());
    model.load(tokens.data());
    model.draw(draw);
    model.forward(dropout);
    model.loss(1.0);
    if (plan.training) model.backward();
    return *model.total().as<double>();
  }
  std::vector<double> gradients() const {
    const Tensor g = model.parameters().gradients();
    return {g.as<double>(), g.as<double>() + g.size()};
  }
  std::vector<double> logits(const std::vector<uint16_t>& tokens, int64_t batch,
                             bool training = false) {
    model.prepare({.batch = batch,
                   .length = static_cast<int64_t>(tokens.size()) / batch,
                   .training = training});
    model.load(tokens.data());
    model.forward();
    std::vector<double> out;
    model.copy_logits(out);
    return out;
  }
};

class HierarchyTest : public testing::TestWithParam<NamedConfig> {
 protected:
  const Config& config() const { return GetParam().config; }
};

// Every gradient along a random direction agrees with the change of the loss, with dropout on, so
// that forward and backward must draw the same masks.
TEST_P(HierarchyTest, GradientIsTheSlopeOfTheLoss) {
  Oracle oracle(config());
  const BatchPlan plan{.batch = 2, .length = config().context() - 1, .training = true};
  const std::vector<uint16_t> tokens = random_tokens(config(), plan.batch * plan.length, 1);
  const StageDropout dropout{.rates = {0.2}, .seed = 5};
  oracle.loss_and_gradient(tokens, plan, dropout, 3);
  const std::vector<double> gradient = oracle.gradients();
  double* values = oracle.model.parameters().values().as<double>();
  for (const ParameterSpec& spec : oracle.model.parameters().specs()) {
    const Tensor view = oracle.model.parameters().master(spec.name);
    const int64_t offset = view.as<double>() - values;
    Random random(11, static_cast<uint64_t>(offset));
    std::vector<double> direction(static_cast<size_t>(view.size()));
    double expected = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = random.normal();
      expected += direction[i] * gradient[static_cast<size_t>(offset) + i];
    }
    const auto loss_at = [&](double h) {
      for (size_t i = 0; i < direction.size(); ++i) view.as<double>()[i] += h * direction[i];
      BatchPlan inference = plan;
      inference.training = false;
      const double loss = oracle.loss_and_gradient(tokens, inference, dropout, 3);
      for (size_t i = 0; i < direction.size(); ++i) view.as<double>()[i] -= h * direction[i];
      return loss;
    };
    const double h = 1e-7, slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    EXPECT_NEAR(slope, expected, 1e-5 * (1 + std::abs(expected))) << spec.name;
  }
}

TEST_P(HierarchyTest, RecomputedActivationsGiveTheSameGradientsToTheBit) {
  Oracle oracle(config());
  BatchPlan plan{.batch = 2, .length = config().context(), .training = true};
  const std::vector<uint16_t> tokens = random_tokens(config(), plan.batch * plan.length, 2);
  const StageDropout dropout{.rates = {0.1}, .seed = 5};
  const double kept_loss = oracle.loss_and_gradient(tokens, plan, dropout, 9);
  const std::vector<double> kept = oracle.gradients();
  plan.checkpoint = true;
  EXPECT_EQ(oracle.loss_and_gradient(tokens, plan, dropout, 9), kept_loss);
  EXPECT_EQ(oracle.gradients(), kept);
}

TEST_P(HierarchyTest, InferenceGivesTheLogitsOfTraining) {
  Oracle oracle(config());
  const std::vector<uint16_t> tokens = random_tokens(config(), 2 * config().context(), 3);
  EXPECT_EQ(oracle.logits(tokens, 2, false), oracle.logits(tokens, 2, true));
}

// Every length works, and a later byte never moves an earlier logit.
TEST_P(HierarchyTest, APrefixGivesTheSameLogits) {
  if (config().latents > 0) GTEST_SKIP() << "the latents of Perceiver AR move with the length";
  Oracle oracle(config());
  const std::vector<uint16_t> tokens = random_tokens(config(), config().context(), 4);
  const std::vector<double> all = oracle.logits(tokens, 1);
  for (int64_t length = 1; length < config().context(); ++length) {
    const std::vector<double> part = oracle.logits({tokens.begin(), tokens.begin() + length}, 1);
    ASSERT_EQ(static_cast<int64_t>(part.size()), length * config().vocab_size);
    for (size_t i = 0; i < part.size(); ++i)
      ASSERT_NEAR(part[i], all[i], 1e-10) << "length " << length;
  }
}

TEST_P(HierarchyTest, EveryByteReachesLaterLogits) {
  Oracle oracle(config());
  const int64_t T = config().context(), V = config().vocab_size;
  std::vector<uint16_t> tokens = random_tokens(config(), T, 6);
  const std::vector<double> before = oracle.logits(tokens, 1);
  for (int64_t t = 0; t + 1 < T; ++t) {
    std::vector<uint16_t> changed = tokens;
    changed[static_cast<size_t>(t)] =
        static_cast<uint16_t>((changed[static_cast<size_t>(t)] + 1) % V);
    const std::vector<double> after = oracle.logits(changed, 1);
    const int64_t predicted = oracle.model.predicted(T),
                  first = T - predicted;  // first predicted position
    double earlier = 0, later = 0;
    for (int64_t p = 0; p < predicted; ++p)
      for (int64_t v = 0; v < V; ++v) {
        const auto i = static_cast<size_t>(p * V + v);
        double& moved = first + p <= t ? earlier : later;
        moved = std::max(moved, std::abs(after[i] - before[i]));
      }
    EXPECT_LT(earlier, 1e-12) << "byte " << t;
    EXPECT_GT(later, 1e-6) << "byte " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Family, HierarchyTest, testing::ValuesIn(test::small_configs()),
                         [](const auto& c) { return c.param.name; });

TEST(Hierarchy, ALengthOutsideTheContextIsAnError) {
  const Config config = test::small_configs().front().config;
  auto backend = make_backend("reference");
  Hierarchy model(config, *backend, DType::f32, false);
  EXPECT_THROW(model.prepare({.batch = 1, .length = config.context() + 1}), Error);
  EXPECT_THROW(model.prepare({.batch = 1, .length = 0}), Error);
}

TEST(Hierarchy, MemoryIsPlannedOnce) {
  const Config config = test::small_configs().front().config;
  auto backend = make_backend("reference");
  const BatchPlan small{.batch = 1, .length = 8},
      training{.batch = 1, .length = 8, .training = true};
  EXPECT_GT(Hierarchy::activation_bytes(config, *backend, DType::f32, training),
            Hierarchy::activation_bytes(config, *backend, DType::f32, small));
}

}  // namespace
}  // namespace megabyte
