// The exact backend on the GPU gives the bits that it gives on the processor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "backends/factories.h"
#include "support/device.h"
#include "support/errors.h"
#include "support/exact_models.h"
#include "support/model_folder.h"
#include "support/models.h"
#include "support/op_case.h"

namespace megabyte::test {
namespace {

// The message of the Error that `action` throws, if it throws one.
std::string failure_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

class CudaExact : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_cuda(); !why.empty())
      GTEST_SKIP() << "the exact backend on the GPU is not tested: " << why;
    host_ = make_backend("exact", 2);
    device_ = make_backend("exact-cuda");
  }

  // Everything that the operation leaves, bit by bit; losses and their sum, which a logarithm of
  // the library is in, nearly. False where the exact backend refuses it.
  bool expect_same(const OpCase& c) {
    SCOPED_TRACE(c.name);
    const Values before = draw_values(c, *host_, DType::f32, hash_of(c.name.data(), c.name.size()));
    Values host;
    const auto call = [&](Backend& backend) {
      return call_with(c, backend, DType::f32, c.run, before);
    };
    if (!failure_of([&] { host = call(*host_); }).empty()) {
      EXPECT_NE(failure_of([&] { call(*device_); }), "");
      return false;
    }
    const Values device = call(*device_);
    for (const Argument& a : c.arguments) {
      if (a.use == Use::scratch) continue;
      const std::vector<double>&want = host.at(a.name), &got = device.at(a.name);
      size_t wrong = 0;
      for (size_t i = 0; i < want.size(); ++i)
        if (a.name == "losses" || a.name == "total")
          EXPECT_NEAR(got[i], want[i], 1e-6 * std::abs(want[i]));
        else
          wrong += std::bit_cast<uint64_t>(got[i]) != std::bit_cast<uint64_t>(want[i]);
      EXPECT_EQ(wrong, 0u) << a.name << ", of " << want.size() << " numbers";
    }
    return true;
  }

  std::unique_ptr<Backend> host_, device_;
};

// Of the op cases, those that no gradient is in.
TEST_F(CudaExact, OperationsHaveTheSameBits) {
  size_t compared = 0;
  for (const OpCase& c : all_op_cases()) {
    // Draws of samples are the samplers' own.
    if (c.name.starts_with("sample")) continue;
    compared += expect_same(c);
  }
  EXPECT_GT(compared, 100u);
}

OpCase product(int64_t rows, int64_t outputs, int64_t terms, Activation activation) {
  using enum Use;
  return {.name = fmt::format("product_{}_{}_{}_{}", rows, outputs, terms,
                              static_cast<int>(activation)),
          .arguments = {{"x", Role::compute, {rows, terms}},
                        {"w", Role::compute, {outputs, terms}},
                        {"bias", Role::master, {outputs}},
                        {"y", Role::compute, {rows, outputs}, output}},
          .run = [activation](Backend& b, const Tensors& t) {
            b.linear_forward(t["x"], t["w"], t["bias"], activation, {}, t["y"]);
          }};
}

// Every size of tile, and what remains of it; rows that share a launch with nothing and with many.
TEST_F(CudaExact, ProductsOfAllSizesHaveTheSameBits) {
  const std::vector<std::array<int64_t, 3>> sizes{
      {1, 1, 1},      {1, 257, 64},      {3, 5, 1030},     {16, 96, 120}, {40, 33, 200},
      {70, 768, 256}, {300, 1024, 1500}, {2100, 384, 128}, {5, 32, 9000}, {4200, 600, 70}};
  for (const auto& [rows, outputs, terms] : sizes)
    expect_same(
        product(rows, outputs, terms, outputs % 2 == 0 ? Activation::gelu : Activation::relu));
}

TEST_F(CudaExact, NormsOfAllWidthsHaveTheSameBits) {
  using enum Use;
  for (const int64_t dim : {1, 15, 16, 100, 128, 250, 256, 500, 1000, 1024, 1030, 2048})
    for (const bool in_place : {false, true}) {
      const int64_t rows = 37;
      OpCase c{.name = fmt::format("norm_{}_{}", dim, in_place),
               .arguments = {{"x", Role::residual, {rows, dim}, in_place ? changes : input},
                             {"delta", Role::compute, {rows, dim}},
                             {"weight", Role::master, {dim}},
                             {"bias", Role::master, {dim}},
                             {"y", Role::compute, {rows, dim}, output}}};
      if (!in_place) c.arguments.push_back({"sum", Role::residual, {rows, dim}, output});
      c.run = [in_place](Backend& b, const Tensors& t) {
        b.residual_norm_forward(t["x"], t["delta"], {}, t["weight"], t["bias"], 1e-5,
                                t[in_place ? "x" : "sum"], t["y"], {}, {});
      };
      expect_same(c);
    }
  for (const int64_t dim : {30, 256, 1100}) {
    const int64_t rows = 70, outputs = 96;
    expect_same({.name = fmt::format("norm_product_{}", dim),
                 .arguments = {{"x", Role::residual, {rows, dim}},
                               {"delta", Role::compute, {rows, dim}},
                               {"weight", Role::master, {dim}},
                               {"bias", Role::master, {dim}},
                               {"w", Role::compute, {outputs, dim}},
                               {"sum", Role::residual, {rows, dim}, output},
                               {"norm", Role::compute, {rows, dim}, scratch},
                               {"y", Role::compute, {rows, outputs}, output}},
                 .run = [](Backend& b, const Tensors& t) {
                   b.norm_linear(t["x"], t["delta"], t["weight"], t["bias"], 1e-5, t["w"], {},
                                 Activation::none, t["sum"], t["norm"], t["y"]);
                 }});
  }
}

// Heads of all widths; queries that a warp, a block or a block with memory of its own has; rings.
TEST_F(CudaExact, AttentionOfAllShapesHasTheSameBits) {
  using enum Use;
  struct Seen {
    int64_t batch, heads, head_dim, capacity, position, first;
  };
  for (const Seen& s : std::vector<Seen>{{3, 2, 64, 8, 5, 0},
                                         {2, 3, 33, 70, 69, 0},
                                         {5, 2, 40, 100, 250, 160},
                                         {1, 1, 130, 300, 299, 3},
                                         {2, 1, 300, 65, 64, 0},
                                         {1, 1, 600, 20, 19, 0},
                                         {1, 1, 16, 60000, 59999, 0}})
    for (const bool linear : {false, true}) {
      const DecodeShape shape{.batch = s.batch,
                              .heads = s.heads,
                              .head_dim = s.head_dim,
                              .capacity = s.capacity,
                              .position = s.position,
                              .first = s.first,
                              .linear = linear};
      const Shape cache{s.batch, s.heads, s.capacity, s.head_dim};
      expect_same({.name = fmt::format("decode_{}_{}_{}", s.head_dim, s.capacity, linear),
                   .arguments = {{"qkv", Role::compute, {s.batch, 3 * shape.dim()}},
                                 {"keys", Role::compute, cache, changes},
                                 {"values", Role::compute, cache, changes},
                                 {"out", Role::compute, {s.batch, shape.dim()}, output}},
                   .run = [shape](Backend& b, const Tensors& t) {
                     b.attention_decode(shape, t["qkv"], t["keys"], t["values"], t["out"]);
                   }});
    }
  for (const int64_t head_dim : {8, 50, 64, 192, 300})
    for (const bool linear : {false, true})
      for (const int64_t cross : {0, 20}) {
        const AttentionShape shape{.sequences = 6,
                                   .length = 50,
                                   .queries = 45,
                                   .heads = 2,
                                   .head_dim = head_dim,
                                   .row_sequences = 3,
                                   .cross = cross,
                                   .linear = linear};
        expect_same({.name = fmt::format("whole_{}_{}_{}", head_dim, linear, cross),
                     .arguments = {{"qkv", Role::compute, {6 * 50, 3 * shape.dim()}},
                                   {"out", Role::compute, {6 * 45, shape.dim()}, output}},
                     .run = [shape](Backend& b, const Tensors& t) {
                       b.attention_forward(shape, t["qkv"], t["out"], {});
                     }});
      }
}

// What is not finite, too small for a scale or below the normal numbers.
TEST_F(CudaExact, OddNumbersHaveTheSameBits) {
  for (const double odd : {HUGE_VAL, -HUGE_VAL, std::nan(""), 0x1p-101, 0x1p-140, -0.0}) {
    OpCase c = product(4, 40, 100, Activation::gelu);
    c.name += fmt::format("_{}", odd);
    c.arguments[0].fill = [odd](Random& random, int64_t i) {
      return i / 100 == 1 ? odd : i == 250 ? odd : random.normal();
    };
    c.arguments[2].fill = [](Random& random, int64_t) { return 0x1p-130 * random.normal(); };
    expect_same(c);
  }
}

// The same pins as those of the processor's kernels (exact_test.cpp).
TEST_F(CudaExact, LogitsAreTheOnesTheyHaveAlwaysBeen) {
  for (const PinnedModel& pinned : pinned_models()) {
    SCOPED_TRACE(pinned.name);
    ExactModel m(pinned.config, make_backend("exact-cuda"));
    expect_pinned(m, pinned);
  }
}

TEST_F(CudaExact, EveryMemberOfTheFamilyHasTheSameBits) {
  for (const NamedConfig& each : small_configs()) {
    SCOPED_TRACE(each.name);
    ExactModel host(each.config, make_backend("exact", 2)),
        device(each.config, make_backend("exact-cuda"));
    const auto hashes = [](ExactModel& m) { return std::pair{logits_hash(m), decoded_hash(m, 3)}; };
    std::pair<uint64_t, uint64_t> want, got;
    const std::string refused = failure_of([&] { want = hashes(host); });
    EXPECT_EQ(failure_of([&] { got = hashes(device); }), refused);
    if (refused.empty()) {
      EXPECT_EQ(got, want);
    }
  }
}

TEST_F(CudaExact, WeightsThatChangeAreReadAgain) {
  for (const float value : {127.0f, 254.0f, 127.0f}) {  // most often in the same place
    const Buffer buffer = device_->allocate(1 << 16);
    const auto floats = [&](int64_t at, int64_t rows, int64_t columns) {
      return Tensor{buffer.data() + 4 * at, DType::f32, {rows, columns}};
    };
    const Tensor w = floats(0, 1, 16), x = floats(64, 1, 16), y = floats(128, 1, 1);
    std::vector<float> row(16, 0.0f);
    row[0] = 127;
    device_->from_host(x, row.data());
    for (const float sign : {1.0f, -1.0f}) {
      row.assign(16, sign * value);
      device_->from_host(w, row.data());
      device_->linear_forward(x, w, {}, Activation::none, {}, y);
      float got = 0;
      device_->to_host(&got, y);
      EXPECT_EQ(got, 127 * sign * value);
    }
  }
}

TEST(CudaExactWithoutADevice, SaysWhatToUse) {
  if (why_no_cuda().empty()) GTEST_SKIP() << "there is a device";
  EXPECT_THAT(error_of([] { make_backend("exact-cuda"); }),
              testing::HasSubstr("use --device exact"));
}

}  // namespace
}  // namespace megabyte::test
