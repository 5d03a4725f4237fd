#include "model/parameters.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/hierarchy.h"
#include "support/configs.h"

namespace megabyte {
namespace {

TEST(Parameters, DecayedTensorsComeFirstAndNothingOverlaps) {
  for (const auto& [name, config] : test::small_configs()) {
    auto backend = make_backend("reference");
    const Parameters p(config, *backend, DType::f32, true);
    EXPECT_EQ(p.count(), parameter_count(config)) << name;
    std::vector<int> owners(static_cast<size_t>(p.values().size()), 0);
    for (const ParameterSpec& spec : p.specs()) {
      const int64_t offset = p.master(spec.name).as<float>() - p.values().as<float>();
      EXPECT_EQ(spec.decayed(), offset < p.decayed_size()) << name << " " << spec.name;
      EXPECT_EQ(offset % Parameters::kAlignment, 0);
      for (int64_t i = 0; i < spec.shape.size(); ++i) ++owners[static_cast<size_t>(offset + i)];
    }
    EXPECT_LE(*std::max_element(owners.begin(), owners.end()), 1) << name;
  }
}

TEST(Parameters, InitialValuesAreThoseThatTheDocumentationNames) {
  const Config config = test::small_configs().front().config;
  auto backend = make_backend("reference");
  Parameters p(config, *backend, DType::f32, false);
  p.initialize(3, 0.02);
  for (const ParameterSpec& spec : p.specs()) {
    const Tensor t = p.master(spec.name);
    double sum = 0, squares = 0, largest = 0;
    for (int64_t i = 0; i < t.size(); ++i) {
      const double x = t.as<float>()[i];
      sum += x;
      squares += x * x;
      largest = std::max(largest, std::abs(x));
    }
    const double n = static_cast<double>(t.size()), rms = std::sqrt(squares / n);
    const double stddev =
        0.02 *
        (spec.residual_output ? 1 / std::sqrt(2.0 * static_cast<double>(spec.stage_layers)) : 1);
    if (spec.kind == ParameterKind::norm_weight) {
      EXPECT_EQ(sum, n) << spec.name;
    } else if (spec.kind == ParameterKind::bias) {
      EXPECT_EQ(largest, 0) << spec.name;
    } else {
      EXPECT_LE(largest, 2 * stddev * 1.0001) << spec.name;
      // Cut at two deviations, a normal keeps 0.88 of its deviation.
      if (n >= 500) {
        EXPECT_NEAR(rms, 0.88 * stddev, 0.08 * stddev) << spec.name;
      }
      EXPECT_GT(rms, 0.3 * stddev) << spec.name;
    }
  }
}

TEST(Parameters, SeedsMakeDifferentAndRepeatableValues) {
  const Config config = test::small_configs().front().config;
  auto backend = make_backend("reference");
  Parameters a(config, *backend, DType::f32, false), b(config, *backend, DType::f64, false);
  a.initialize(3);
  b.initialize(3);
  const auto first = a.values().as<float>()[0];
  EXPECT_EQ(static_cast<double>(first), b.values().as<double>()[0]);
  a.initialize(4);
  EXPECT_NE(first, a.values().as<float>()[0]);
}

// With pads of zero the first gradient of a deep stage was 1e20 times that of its neighbours.
TEST(Parameters, TheFirstGradientDoesNotExplodeWithDepth) {
  Config config = test::small_configs().front().config;
  config.stages[0].layers = 8;
  auto backend = make_backend("reference");
  Hierarchy model(config, *backend, DType::f64, true);
  model.parameters().initialize(1);
  const std::vector<uint16_t> tokens(static_cast<size_t>(config.context()), 7);
  model.prepare({.batch = 1, .length = config.context(), .training = true});
  backend->zero(model.parameters().gradients());
  model.load(tokens.data());
  model.forward();
  model.loss(1.0 / static_cast<double>(config.context()));
  model.backward();
  double squares = 0;
  const Tensor g = model.parameters().gradients();
  for (int64_t i = 0; i < g.size(); ++i) squares += std::pow(g.as<double>()[i], 2);
  EXPECT_LT(std::sqrt(squares), 100);
}

}  // namespace
}  // namespace megabyte
