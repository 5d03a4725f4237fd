#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace megabyte {
namespace {

using Words = std::array<uint32_t, 4>;

// Philox4x32-10's known answers, as the Random123 library states them for its counter and key.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(philox(ones, ones, ones), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 (digits of pi).
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Uniform, LiesInsideZeroAndOne) {
  EXPECT_GT(uniform(0), 0.0f);
  EXPECT_LT(uniform(0xffffffff), 1.0f);
  EXPECT_LT(uniform(0x7fffffff), uniform(0x80000000));
}

TEST(Random, RepeatsItselfAndStreamsDiffer) {
  Random a(3, 4), b(3, 4), other_stream(3, 5), other_seed(4, 4);
  for (int i = 0; i < 9; ++i) {
    const uint64_t x = a.bits64();
    EXPECT_EQ(x, b.bits64());
    EXPECT_NE(x, other_stream.bits64());
    EXPECT_NE(x, other_seed.bits64());
  }
}

TEST(Random, BelowCoversItsRangeEvenly) {
  Random random(1, 2);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) {
    const uint64_t x = random.below(7);
    ASSERT_LT(x, 7u);
    ++counts[x];
  }
  // Five standard deviations of a count are 463.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 463);
  EXPECT_EQ(random.below(1), 0u);
}

TEST(Random, BelowReachesTheTopOfALargeRange) {
  Random random(1, 3);
  const uint64_t bound = uint64_t{1} << 62;
  uint64_t largest = 0;
  for (int i = 0; i < 1000; ++i) largest = std::max(largest, random.below(bound));
  EXPECT_LT(largest, bound);
  EXPECT_GT(largest, bound / 100 * 98);
}

TEST(Random, MomentsOfUniformAndNormalNumbers) {
  Random random(5, 6);
  const int n = 100000;
  double mean = 0, normal_mean = 0, square = 0, fourth = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform01(), x = random.normal();
    ASSERT_GT(u, 0);
    ASSERT_LT(u, 1);
    mean += u / n;
    normal_mean += x / n;
    square += x * x / n;
    fourth += x * x * x * x / n;
  }
  EXPECT_NEAR(mean, 0.5, 0.005);  // five standard deviations
  EXPECT_NEAR(normal_mean, 0, 0.016);
  EXPECT_NEAR(square, 1, 0.023);
  EXPECT_NEAR(fourth, 3, 0.16);
}

}  // namespace
}  // namespace megabyte
