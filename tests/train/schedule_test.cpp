#include "train/schedule.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace megabyte {
namespace {

TEST(Schedule, WarmsUpThenFalls) {
  const Schedule schedule{.peak = 2, .warmup_steps = 10};
  const Budget budget{.steps = 100};
  const auto rate = [&](int64_t step) { return schedule.rate(step, budget.progress(step, 0)); };
  EXPECT_DOUBLE_EQ(rate(0), 2 * 0.1);
  EXPECT_NEAR(rate(4), 2 * 0.5, 0.01);  // the decay has hardly begun
  EXPECT_DOUBLE_EQ(rate(50), 1);
  EXPECT_GT(rate(99), 0);
  EXPECT_LT(rate(99), 0.002);
  for (int64_t step = 10; step < 100; ++step) EXPECT_LT(rate(step), rate(step - 1)) << step;
}

TEST(Schedule, EndsAtTheFinalFraction) {
  for (const Decay decay : {Decay::cosine, Decay::linear}) {
    const Schedule schedule{.peak = 2, .decay = decay, .final_fraction = 0.1};
    EXPECT_DOUBLE_EQ(schedule.rate(0, 0), 2);
    EXPECT_DOUBLE_EQ(schedule.rate(5, 0.5), 1.1);
    EXPECT_DOUBLE_EQ(schedule.rate(10, 1), 0.2);
    EXPECT_DOUBLE_EQ(schedule.rate(11, 1.5), 0.2);  // a time budget may be overrun
  }
  EXPECT_DOUBLE_EQ((Schedule{.peak = 2, .decay = Decay::constant}.rate(10, 1)), 2);
}

TEST(Schedule, AShortRunGetsThroughItsWarmup) {
  const Schedule schedule{
      .peak = 1, .warmup_steps = 1000, .warmup_limit = 0.1, .decay = Decay::constant};
  const Budget budget{.seconds = 60};
  EXPECT_DOUBLE_EQ(schedule.rate(0, 0), 0.001);
  EXPECT_DOUBLE_EQ(schedule.rate(5, budget.progress(5, 3)), 0.5);
  EXPECT_DOUBLE_EQ(schedule.rate(10, budget.progress(10, 6)), 1);
}

TEST(Schedule, BudgetsEndRuns) {
  EXPECT_FALSE((Budget{.steps = 3}.done(2, 1e9)));
  EXPECT_TRUE((Budget{.steps = 3}.done(3, 0)));
  EXPECT_FALSE((Budget{.seconds = 3}.done(1000, 2.9)));
  EXPECT_TRUE((Budget{.seconds = 3}.done(0, 3)));
}

TEST(Schedule, NamesOfDecays) {
  EXPECT_EQ(decay_from_name("linear"), Decay::linear);
  EXPECT_THROW(decay_from_name("step"), UsageError);
}

}  // namespace
}  // namespace megabyte
