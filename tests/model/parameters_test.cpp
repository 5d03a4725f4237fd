#include "model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
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
    std::vector<Parameters::Group> group_of(owners.size());
    int64_t end = 0;
    for (const Parameters::Group& group : p.groups()) {
      EXPECT_EQ(group.begin, end) << name;
      end += group.count;
      std::fill(group_of.begin() + group.begin, group_of.begin() + end, group);
    }
    EXPECT_EQ(end, p.values().size()) << name;
    EXPECT_TRUE(std::is_partitioned(p.groups().begin(), p.groups().end(), [](const auto& group) {
      return group.decayed;
    })) << name;
    for (const ParameterSpec& spec : p.specs()) {
      const int64_t offset = p.master(spec.name).as<float>() - p.values().as<float>();
      const Parameters::Group& group = group_of[static_cast<size_t>(offset)];
      EXPECT_EQ(spec.decayed(), group.decayed) << name << " " << spec.name;
      EXPECT_EQ(spec.stage < 0 ? config.stage_count() - 1 : spec.stage, group.stage)
          << name << " " << spec.name;
      EXPECT_EQ(offset % Parameters::kAlignment, 0);
      for (int64_t i = 0; i < spec.shape.size(); ++i) ++owners[static_cast<size_t>(offset + i)];
    }
    EXPECT_LE(*std::max_element(owners.begin(), owners.end()), 1) << name;
  }
}

double rms_of(const Parameters& p, const std::string& name) {
  const Tensor t = p.master(name);
  double squares = 0;
  for (int64_t i = 0; i < t.size(); ++i) squares += std::pow(t.as<float>()[i], 2);
  return std::sqrt(squares / static_cast<double>(t.size()));
}

TEST(Parameters, SomeTensorsStartFromScalesOfTheirOwn) {
  const Config config = test::small_configs().front().config;
  auto backend = make_backend("reference");
  Parameters plain(config, *backend, DType::f32, false), own(config, *backend, DType::f32, false);
  plain.initialize(3, 0.02);
  own.initialize(3, 0.02, {{"embed", 0.1}, {"stages.1.embed", 0.3}, {"from_parent", 0}});
  for (const ParameterSpec& spec : own.specs()) {
    double factor = 1;
    if (spec.name == "stages.0.embed.weight") factor = 5;
    if (spec.name == "stages.1.embed.weight") factor = 15;
    if (spec.name == "stages.1.from_parent.weight") factor = 0;
    EXPECT_NEAR(rms_of(own, spec.name), factor * rms_of(plain, spec.name), 1e-5) << spec.name;
  }
}

TEST(Parameters, ScalesThatMakeNoSenseAreUsageErrors) {
  EXPECT_EQ(parse_initial_scale("from_parent=2e-3").tensor, "from_parent");
  EXPECT_EQ(parse_initial_scale("from_parent=2e-3").stddev, 2e-3);
  for (const char* text : {"", "embed", "=1", "embed=", "embed=-1", "embed=1x", "embed=nan"})
    EXPECT_THROW(parse_initial_scale(text), UsageError) << text;
  auto backend = make_backend("reference");
  Parameters p(test::small_configs().front().config, *backend, DType::f32, false);
  for (const char* name : {"from_child", "mbed", "norm1", "stages.7.embed"})  // norms are ones
    EXPECT_THROW(p.initialize(3, 0.02, {{name, 0.1}}), UsageError) << name;
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
