#include "compare/result.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/cost.h"
#include "model/presets.h"
#include "support/command.h"
#include "train/metrics.h"

namespace megabyte {
namespace {

TEST(ComparisonBudget, FlopsBecomeWholeSteps) {
  const Config& config = find_preset("tiny").config;
  TrainSettings settings;
  settings.batch = 4;
  const double step =
      training_flops_per_byte(config, settings, false) * 4 * static_cast<double>(config.context());
  ComparisonBudget{.flops = 10.4 * step}.give(settings, config);
  EXPECT_EQ(settings.steps, 10);
  EXPECT_EQ(settings.budget(config.context()).steps, 10);
  ComparisonBudget{.flops = 1}.give(settings, config);
  EXPECT_EQ(settings.steps, 1);
  ComparisonBudget{.minutes = 2}.give(settings, config);
  EXPECT_EQ(settings.steps, 0);
  EXPECT_EQ(settings.budget(config.context()).seconds, 120);
  ComparisonBudget{.bytes = 5000}.give(settings, config);
  EXPECT_EQ(settings.budget(config.context()).steps, 2);
  EXPECT_EQ(settings.minutes, 0);
}

TEST(ComparisonBudget, FlopsAreThoseOfTheBytesThatAreRead) {
  const Config& config = find_preset("paper-text-perceiver").config;  // predicts 1024 of 8192
  EXPECT_DOUBLE_EQ(training_flops_per_byte(config, {}, false),
                   count_cost(config, 8192).training(false) / 8);
}

TEST(EntryResult, ComesBackFromItsJson) {
  EntryResult result{.name = "x",
                     .label = "X",
                     .machine = "m",
                     .dtype = "f32",
                     .parameters = 5,
                     .context = 64,
                     .batch = 2,
                     .lr = 1e-3,
                     .seed = 9,
                     .steps = 3,
                     .bytes = 384,
                     .flops_per_byte = 100,
                     .seconds = 1.5,
                     .peak_memory = 7};
  result.curve = {{.bytes = 128, .flops = 12800, .seconds = 0.5, .bpb = 7}};
  result.scores = {{.method = "basic",
                    .bpb = 6.5,
                    .bytes = 50,
                    .bytes_run = 1,
                    .flops_per_byte = 33,
                    .seconds = 0.1,
                    .word_perplexity = 1000,
                    .by_position = {6, std::nan("")}}};
  EXPECT_EQ(result.flops(), 38400);
  const nlohmann::json json = nlohmann::json::parse(to_json(result).dump());
  const EntryResult again = parse_entry_result(json);
  EXPECT_EQ(to_json(again).dump(), to_json(result).dump());
  EXPECT_TRUE(std::isnan(again.scores[0].by_position[1]));
  ASSERT_NE(again.score(ScoringMethod::basic), nullptr);
  EXPECT_EQ(again.score(ScoringMethod::sliding), nullptr);
  EXPECT_THROW(parse_entry_result(nlohmann::json::object()), nlohmann::json::exception);
}

TEST(EntryResult, TheCurveIsTheValidationsOfTheMetrics) {
  const test::TemporaryFolder folder;
  Metrics metrics{.step = 1, .bytes = 10, .seconds = 0.5, .loss = 3};
  std::string text = metrics.to_json() + "\n";
  metrics.valid_bpb = 4.5;
  metrics.bytes = 20;
  text += metrics.to_json() + "\n";
  test::write_file(folder / "metrics.jsonl", text);
  const std::vector<CurvePoint> curve = read_curve(folder / "metrics.jsonl", 2);
  ASSERT_EQ(curve.size(), 1u);
  EXPECT_EQ(curve[0].bytes, 20);
  EXPECT_EQ(curve[0].flops, 40);
  EXPECT_EQ(curve[0].seconds, 0.5);
  EXPECT_EQ(curve[0].bpb, 4.5);
}

}  // namespace
}  // namespace megabyte
