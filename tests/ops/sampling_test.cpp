#include "ops/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace megabyte {
namespace {

const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInf = std::numeric_limits<double>::infinity();

std::vector<uint16_t> draw(const std::vector<double>& logits, SampleShape shape) {
  shape.vocab = static_cast<int64_t>(logits.size());
  std::vector<double> rows;
  for (int64_t b = 0; b < shape.batch; ++b) rows.insert(rows.end(), logits.begin(), logits.end());
  Random random(9, 4);
  std::vector<double> draws;
  for (int64_t b = 0; b < shape.batch; ++b) draws.push_back(random.uniform01());
  std::vector<uint16_t> tokens(static_cast<size_t>(shape.batch), 0xffff);
  sample_on_host(shape, Tensor{rows.data(), DType::f64, {shape.batch, shape.vocab}},
                 Tensor{draws.data(), DType::f64, {shape.batch}}, tokens.data());
  return tokens;
}

SampleShape settings(int64_t batch, double temperature, int64_t top_k = 0, double top_p = 1) {
  return {.batch = batch, .vocab = 0, .temperature = temperature, .top_k = top_k, .top_p = top_p};
}

std::vector<double> logs(std::vector<double> probabilities) {
  for (double& p : probabilities) p = std::log(p);
  return probabilities;
}

// Each token's share of the draws lies within five standard deviations of its probability.
void expect_frequencies(const std::vector<uint16_t>& tokens, const std::vector<double>& expected) {
  const double n = static_cast<double>(tokens.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const double p = expected[i];
    const double count = static_cast<double>(std::count(tokens.begin(), tokens.end(), i));
    EXPECT_NEAR(count / n, p, 5 * std::sqrt(p * (1 - p) / n)) << "token " << i;
  }
}

std::set<uint16_t> seen(const std::vector<double>& logits, const SampleShape& shape) {
  const std::vector<uint16_t> tokens = draw(logits, shape);
  return {tokens.begin(), tokens.end()};
}

using Set = std::set<uint16_t>;

TEST(Sampling, DrawsTheDistribution) {
  expect_frequencies(draw(logs({0.5, 0.25, 0.15, 0.1, 0}), settings(20000, 1)),
                     {0.5, 0.25, 0.15, 0.1, 0});
}

TEST(Sampling, TemperatureSharpens) {
  // Temperature 0.5 squares the probabilities.
  expect_frequencies(draw(logs({0.6, 0.3, 0.1}), settings(20000, 0.5)),
                     {0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46});
}

TEST(Sampling, TopKAndTopPKeepTheRatios) {
  const std::vector<double> logits = logs({0.1, 0.4, 0.2, 0.3});
  expect_frequencies(draw(logits, settings(20000, 1, 2)), {0, 4.0 / 7, 0, 3.0 / 7});
  expect_frequencies(draw(logits, settings(20000, 1, 0, 0.75)), {0, 4.0 / 9, 2.0 / 9, 3.0 / 9});
  // top_p is a share of what top_k left: 0.4 / 0.7 does not reach 0.6, 0.4 / 0.9 neither.
  EXPECT_EQ(seen(logits, settings(500, 1, 2, 0.5)), Set({1}));
  EXPECT_EQ(seen(logits, settings(500, 1, 2, 0.6)), Set({1, 3}));
  EXPECT_EQ(seen(logits, settings(500, 1, 3, 0.6)), Set({1, 3}));
}

TEST(Sampling, EdgesOfTopKAndTopP) {
  const std::vector<double> logits = logs({0.25, 0.5, 0.25});
  EXPECT_EQ(seen(logits, settings(200, 1, 1)), Set({1}));
  EXPECT_EQ(seen(logits, settings(200, 1, 2)), Set({0, 1}));  // the lower index of a tie
  EXPECT_EQ(seen(logits, settings(200, 1, 3)), Set({0, 1, 2}));
  EXPECT_EQ(seen(logits, settings(200, 1, 1000)), Set({0, 1, 2}));
  EXPECT_EQ(seen(logits, settings(200, 1, 0, 0)), Set({1}));  // at least one
  EXPECT_EQ(seen(logits, settings(200, 1, 0, 0.5)), Set({1}));
  EXPECT_EQ(seen(logits, settings(200, 1, 0, 0.500001)), Set({0, 1}));
  EXPECT_EQ(seen(logits, settings(200, 1, 0, 0.999999)), Set({0, 1, 2}));
}

TEST(Sampling, GreedyTakesTheLowestOfTheLargest) {
  EXPECT_EQ(seen({1, 3, 3, 2}, settings(5, 0)), Set({1}));
  EXPECT_EQ(seen({kNan, -kInf, -7, kNan}, settings(5, 0)), Set({2}));
  EXPECT_EQ(seen({0, kInf, kInf}, settings(5, 0)), Set({1}));
  EXPECT_EQ(seen({kNan, kNan}, settings(5, 0)), Set({0}));
  EXPECT_EQ(seen({-kInf, -kInf}, settings(5, 0)), Set({0}));
}

TEST(Sampling, ExtremeTemperatures) {
  EXPECT_EQ(seen({1, 1.001, 0.5}, settings(200, 1e-300)), Set({1}));
  expect_frequencies(draw({50, -50, 0}, settings(9000, 1e300)), {1.0 / 3, 1.0 / 3, 1.0 / 3});
}

TEST(Sampling, NumbersThatAreNotFinite) {
  for (const auto& [k, p] : {std::pair<int64_t, double>{0, 1}, {2, 1}, {0, 0.9}, {2, 0.9}}) {
    EXPECT_EQ(seen({kNan, 0, kNan, 0}, settings(200, 1, k, p)), Set({1, 3}));
    EXPECT_EQ(seen({kNan, kNan, kNan}, settings(20, 1, k, p)), Set({0}));
    EXPECT_EQ(seen({0, kInf, 5, kInf}, settings(200, 1, k, p)), Set({1, 3}));
    EXPECT_EQ(seen({-kInf, 2, -kInf}, settings(200, 1, k, p)), Set({1}));
    EXPECT_EQ(seen({-kInf, -kInf}, settings(200, 1, k, p)), Set({0, 1}));
    EXPECT_EQ(seen({-1e308, 1e308, kNan}, settings(200, 1, k, p)), Set({1}));
  }
}

TEST(Sampling, ADrawPicksItsPlaceInTheRunningSum) {
  std::vector<double> logits = logs({0.25, 0.5, 0.25, 0.25, 0.5, 0.25});
  std::vector<double> draws = {0.2, 0.3};
  std::vector<uint16_t> tokens(2, 0xffff);
  sample_on_host({.batch = 2, .vocab = 3, .temperature = 1, .top_k = 0, .top_p = 1},
                 Tensor{logits.data(), DType::f64, {2, 3}}, Tensor{draws.data(), DType::f64, {2}},
                 tokens.data());
  EXPECT_EQ(tokens, (std::vector<uint16_t>{0, 1}));
}

TEST(Sampling, GreedyNeedsNoDraws) {
  std::vector<double> logits = {0, 2, 1};
  uint16_t token = 0xffff;
  const Tensor row{logits.data(), DType::f64, {1, 3}};
  sample_on_host({.batch = 1, .vocab = 3, .temperature = 0, .top_k = 0, .top_p = 1}, row, {},
                 &token);
  EXPECT_EQ(token, 1);
  EXPECT_THROW(sample_on_host({.batch = 1, .vocab = 3, .temperature = 1, .top_k = 0, .top_p = 1},
                              row, {}, &token),
               Error);
}

TEST(Sampling, WholeRangeOfTokens) {
  std::vector<double> logits(65536, -kInf);
  logits.back() = 0;
  EXPECT_EQ(seen(logits, settings(3, 1)), Set({65535}));
  logits.push_back(0);
  EXPECT_THROW(draw(logits, settings(1, 1)), Error);
}

}  // namespace
}  // namespace megabyte
