#include "eval/windows.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/configs.h"

namespace megabyte {
namespace {

constexpr ScoringMethod kAll[] = {ScoringMethod::basic, ScoringMethod::sliding,
                                  ScoringMethod::strided, ScoringMethod::sliding_strided};

bool strides(ScoringMethod method) {
  return method == ScoringMethod::strided || method == ScoringMethod::sliding_strided;
}

std::vector<Window> all_windows(const Config& config, ScoringMethod method, int64_t bytes) {
  WindowWalk walk(config, method, bytes);
  std::vector<Window> windows;
  while (const auto window = walk.next()) windows.push_back(*window);
  return windows;
}

TEST(Windows, EachByteCountsExactlyOnce) {
  for (const auto& [name, config] : test::small_configs()) {
    const int64_t patch = config.patch_bytes(0), T = config.context();
    for (const ScoringMethod method : kAll) {
      if (strides(method) && patch == 1) continue;
      for (int64_t bytes = 0; bytes <= 3 * T + 1; ++bytes) {
        std::vector<int> counted(static_cast<size_t>(bytes));
        for (const Window& w : all_windows(config, method, bytes)) {
          ASSERT_GE(w.length, 1);
          ASSERT_LE(w.length, T);
          ASSERT_GE(w.start, 0);
          ASSERT_LE(w.start + w.length, bytes);
          for (int64_t i = 0; i < w.length; ++i)
            if (w.counts(i, patch)) ++counted[static_cast<size_t>(w.start + i)];
        }
        ASSERT_EQ(counted, std::vector<int>(counted.size(), 1))
            << name << " " << name_of(method) << " " << bytes;
      }
    }
  }
}

TEST(Windows, PatchesOfOddSizesCountOnceToo) {
  const Config config{.stages = {{.length = 5}, {.length = 7}}};
  for (const ScoringMethod method : kAll)
    for (const int64_t bytes : {1, 2, 3, 4, 34, 35, 36, 100}) {
      std::vector<int> counted(static_cast<size_t>(bytes));
      for (const Window& w : all_windows(config, method, bytes))
        for (int64_t i = 0; i < w.length; ++i)
          if (w.counts(i, 7)) ++counted[static_cast<size_t>(w.start + i)];
      EXPECT_EQ(counted, std::vector<int>(counted.size(), 1)) << name_of(method) << bytes;
    }
}

TEST(Windows, CostIsThatOfTheMethod) {
  const Config config{.stages = {{.length = 8}, {.length = 4}}};
  const int64_t bytes = 32 * 1000;
  const double expected[] = {1, 2, 2, 4};
  for (size_t m = 0; m < 4; ++m) {
    int64_t run = 0;
    for (const Window& w : all_windows(config, kAll[m], bytes)) run += w.length;
    EXPECT_NEAR(static_cast<double>(run) / static_cast<double>(bytes), expected[m], 0.01);
  }
}

TEST(Windows, SlidingGivesHalfAContext) {
  const Config config{.stages = {{.length = 8}, {.length = 4}}};
  for (const Window& w : all_windows(config, ScoringMethod::sliding, 1000)) {
    EXPECT_TRUE(w.first == 0 ? w.start == 0 : w.first == 16);
    EXPECT_EQ(w.start % 4, 0);
  }
}

TEST(Windows, SlidingKeepsAsManyBytesAsItIsTold) {
  const Config config{.stages = {{.length = 8}, {.length = 4}}};
  for (const int64_t kept : {0, 4, 31}) {
    WindowWalk walk(config, ScoringMethod::sliding, 1000, kept);
    int64_t counted = 0;
    while (const std::optional<Window> w = walk.next()) {
      EXPECT_EQ(w->first, w->start == 0 ? 0 : kept);
      EXPECT_EQ(w->start + w->first, counted);
      counted = w->start + w->length;
    }
    EXPECT_EQ(counted, 1000);
  }
}

TEST(Windows, StridedCountsTheFirstHalfOfPatches) {
  const Config config{.stages = {{.length = 8}, {.length = 4}}};
  for (const Window& w : all_windows(config, ScoringMethod::strided, 1000)) {
    EXPECT_EQ(w.places, 2);
    EXPECT_EQ(w.start % 4 == 0 || w.start % 4 == 2, true);
  }
}

TEST(Windows, StridingNeedsPatches) {
  const Config one_stage{.stages = {{.length = 8}}},
      patches_of_one{.stages = {{.length = 8}, {.length = 1}}};
  for (const Config& config : {one_stage, patches_of_one}) {
    try {
      WindowWalk(config, ScoringMethod::strided, 10);
      FAIL() << "should have thrown";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("--method sliding"), std::string::npos);
    }
  }
}

TEST(Windows, MethodsHaveNames) {
  for (const ScoringMethod method : kAll)
    EXPECT_EQ(scoring_method(std::string(name_of(method))), method);
  EXPECT_THROW(scoring_method("best"), Error);
}

}  // namespace
}  // namespace megabyte
