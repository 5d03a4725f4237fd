#include "generate/generator.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "support/configs.h"
#include "support/models.h"

namespace megabyte {
namespace {

using test::WideModel;

Config patched() {
  return {.stages = {{.length = 4, .dim = 16, .layers = 1, .heads = 2, .ffn = 32},
                     {.length = 4, .dim = 8, .layers = 1, .heads = 2, .ffn = 16}}};
}

// Samples (count, batch) of `bytes` symbols, numbered from `first`.
std::vector<std::vector<uint16_t>> draw(WideModel& wide, int64_t batch, uint64_t first,
                                        const SamplingOptions& options, int64_t bytes) {
  Generator generator(wide.model, batch, options);
  generator.start({1, 2, 3, 4}, first);
  std::vector<std::vector<uint16_t>> samples(static_cast<size_t>(batch));
  for (int64_t t = 0; t < bytes; ++t) {
    const std::vector<uint16_t>& tokens = generator.next();
    for (size_t b = 0; b < samples.size(); ++b) samples[b].push_back(tokens[b]);
  }
  return samples;
}

TEST(Generator, ASampleDependsOnItsNumberAndTheSeedOnly) {
  WideModel wide(patched(), "auto", DType::f32);
  const auto all = draw(wide, 5, 0, {.seed = 7}, 30);
  for (uint64_t b = 0; b < all.size(); ++b)
    EXPECT_EQ(draw(wide, 1, b, {.seed = 7}, 30)[0], all[b]) << "sample " << b;
  EXPECT_NE(draw(wide, 5, 0, {.seed = 8}, 30), all);
  EXPECT_NE(all[0], all[1]);
}

TEST(Generator, StartsAnew) {
  WideModel wide(patched(), "auto", DType::f32);
  Generator generator(wide.model, 1, {.seed = 3});
  std::vector<uint16_t> first, second;
  generator.start({5}, 0);
  for (int i = 0; i < 20; ++i) first.push_back(generator.next()[0]);
  generator.start({5}, 0);
  for (int i = 0; i < 20; ++i) second.push_back(generator.next()[0]);
  EXPECT_EQ(first, second);
}

TEST(Generator, DrawsOfEachByteDiffer) {
  WideModel wide(patched(), "reference", DType::f64);
  const auto hot = draw(wide, 1, 0, {.temperature = 1e6, .seed = 1}, 40)[0];
  EXPECT_GT(std::set<uint16_t>(hot.begin(), hot.end()).size(), 25u);
  const auto greedy = draw(wide, 2, 0, {.temperature = 0, .seed = 1}, 30);
  EXPECT_EQ(greedy[0], greedy[1]);
}

}  // namespace
}  // namespace megabyte
