// What only the cuda backend has; its operations are tested with all others' (tests/ops), whole
// models with the golden cases (tests/model).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/random.h"
#include "model/cost.h"
#include "model/hierarchy.h"
#include "ops/ops.h"
#include "support/device.h"
#include "support/errors.h"
#include "train/trainer.h"

namespace megabyte {
namespace {

TEST(Cuda, NeedsADevice) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) {
    EXPECT_THAT(test::error_of([] { make_backend("cuda"); }), testing::HasSubstr("--device cpu"));
    EXPECT_NE(make_backend("auto")->name(), "cuda");
    GTEST_SKIP() << "the cuda backend is not tested: " << why;
  }
  const auto backend = make_backend("cuda");
  EXPECT_EQ(backend->name(), "cuda");
  EXPECT_EQ(make_backend("auto")->name(), "cuda");
  EXPECT_THAT(backend->description(), testing::HasSubstr("CUDA"));
  EXPECT_TRUE(backend->supports(DType::bf16));
  EXPECT_FALSE(backend->supports(DType::f64));
}

TEST(Cuda, OutOfMemorySaysWhatToLower) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  const auto backend = make_backend("cuda");
  const std::string error = test::error_of([&] { backend->allocate(size_t{1} << 44); });
  EXPECT_THAT(error, testing::HasSubstr("16384.00 GiB are needed"));
  EXPECT_THAT(error, testing::HasSubstr("smaller batch"));
  EXPECT_NO_THROW(backend->allocate(1 << 20));  // the failure is forgotten
}

// What `megabyte info` predicts (model/cost.h) is what training takes.
TEST(Cuda, TrainingTakesTheMemoryThatIsPredicted) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  const auto backend = make_backend("cuda");
  constexpr size_t kOfItsOwn = size_t{16} << 20;
  if (backend->peak_memory() > kOfItsOwn) GTEST_SKIP() << "needs a process of its own";
  const Config config{.stages = {{128, 512, 4, 8, 2048}, {8, 256, 4, 4, 1024}}};
  for (const bool checkpoint : {true, false}) {  // the smaller peak first
    const BatchPlan plan{
        .batch = 32, .length = config.context(), .training = true, .checkpoint = checkpoint};
    Hierarchy model(config, *backend, DType::bf16, true);
    model.parameters().initialize(1);
    Trainer trainer(model, {.batch = plan.batch, .steps = 1, .checkpoint_activations = checkpoint});
    const std::vector<uint16_t> tokens(static_cast<size_t>(plan.batch * plan.length), 1);
    trainer.step(tokens.data(), 0, 1e-3);
    const TrainingMemory memory = training_memory(config, DType::bf16);
    const double predicted =
        static_cast<double>(memory.weights + memory.gradients + memory.moments) +
        static_cast<double>(Hierarchy::activation_bytes(config, *backend, DType::bf16, plan) +
                            backend->workspace());
    EXPECT_NEAR(static_cast<double>(backend->peak_memory()), predicted, 0.1 * predicted);
  }
}

// Uploads go through a small pinned buffer in pieces; the source may change at once.
TEST(Cuda, UploadsMoreThanItsStagingMemory) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  const auto backend = make_backend("cuda");
  std::vector<float> source(5'000'001), back(source.size());
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
  const Buffer buffer = backend->allocate(source.size() * sizeof(float));
  const Tensor tensor{buffer.data(), DType::f32, {static_cast<int64_t>(source.size())}};
  const std::vector<float> expected = source;
  backend->from_host(tensor, source.data());
  std::fill(source.begin(), source.end(), -1.0f);
  backend->to_host(back.data(), tensor);
  EXPECT_EQ(back, expected);
}

// Results large enough for the library's epilogues, against f32 with the same inputs.
TEST(Cuda, LargeProductsWithGelu) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  constexpr int64_t M = 2048, N = 1024, K = 128;
  const auto backend = make_backend("cuda");
  const Buffer buffer = backend->allocate(size_t{128} << 20);
  Arena arena(buffer.data());
  Random random(5, 1);
  const auto both = [&](const Shape& shape, float scale) {  // in bf16 and, rounded, in f32
    const Tensor wide = arena.make(shape, DType::f32), narrow = arena.make(shape, DType::bf16);
    std::vector<float> host(static_cast<size_t>(shape.size()));
    for (float& x : host) x = scale * static_cast<float>(random.normal());
    backend->from_host(wide, host.data());
    backend->convert(wide, narrow);
    backend->convert(narrow, wide);
    return std::map<DType, Tensor>{{DType::f32, wide}, {DType::bf16, narrow}};
  };
  auto x = both({M, K}, 1), w = both({N, K}, 0.1f), v = both({K, N}, 0.1f), dy = both({M, K}, 1);
  const Tensor bias = both({N}, 0.3f).at(DType::f32);
  std::map<DType, std::vector<std::vector<float>>> results;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor pre = arena.make({M, N}, dtype), y = arena.make({M, N}, dtype);
    const Tensor dx = arena.make({M, N}, dtype), wide = arena.make({M, N}, DType::f32);
    backend->linear_forward(x[dtype], w[dtype], bias, Activation::gelu, pre, y);
    backend->linear_backward_input(dy[dtype], v[dtype], Activation::gelu, pre, dx);
    for (const Tensor& t : {pre, y, dx}) {
      backend->convert(t, wide);
      results[dtype].emplace_back(static_cast<size_t>(M * N));
      backend->to_host(results[dtype].back().data(), wide);
    }
  }
  for (size_t i = 0; i < 3; ++i) {
    double difference = 0, size = 0;
    for (size_t j = 0; j < static_cast<size_t>(M * N); ++j) {
      const double want = results[DType::f32][i][j], have = results[DType::bf16][i][j];
      difference += (have - want) * (have - want);
      size += want * want;
    }
    EXPECT_LT(std::sqrt(difference / size), 5e-3) << "result " << i;
  }
}

// Rows long enough that every multiprocessor gets several shares of them, in bf16 against f32 with
// the same inputs; and the same call gives the same bits.
TEST(Cuda, LongAttention) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  const auto backend = make_backend("cuda");
  const Buffer buffer = backend->allocate(size_t{512} << 20);
  const AttentionShape shapes[] = {// sequences, length, queries, heads, head_dim, of a row, cross
                                   {2, 1000, 1000, 20, 64},       {1, 1100, 1100, 20, 128},
                                   {2, 1100, 700, 20, 64},        {1, 2000, 1300, 20, 128},
                                   {6, 320, 320, 16, 64, 3, 200}, {6, 320, 320, 16, 128, 3, 450}};
  for (const AttentionShape& s : shapes) {
    SCOPED_TRACE(testing::Message() << "length " << s.length << ", heads of " << s.head_dim);
    Arena arena(buffer.data());
    Random random(7, 1);
    const auto both = [&](const Shape& shape) {  // in bf16 and, rounded, in f32
      const Tensor wide = arena.make(shape, DType::f32), narrow = arena.make(shape, DType::bf16);
      std::vector<float> host(static_cast<size_t>(shape.size()));
      for (float& x : host) x = static_cast<float>(random.normal());
      backend->from_host(wide, host.data());
      backend->convert(wide, narrow);
      backend->convert(narrow, wide);
      return std::map<DType, Tensor>{{DType::f32, wide}, {DType::bf16, narrow}};
    };
    const int64_t keys = s.sequences * s.length, asking = s.sequences * s.queries;
    auto qkv = both({keys, 3 * s.dim()}), dout = both({asking, s.dim()});
    const Tensor wide = arena.make({keys, 3 * s.dim()}, DType::f32);
    using Results = std::vector<std::vector<float>>;
    const auto run = [&](DType dtype) {
      Results results;
      const Tensor out = arena.make({asking, s.dim()}, dtype);
      const Tensor stats = arena.make({asking * s.heads}, DType::f32);
      const Tensor dqkv = arena.make({keys, 3 * s.dim()}, dtype);
      backend->attention_forward(s, qkv[dtype], out, stats);
      backend->attention_backward(s, qkv[dtype], out, stats, dout[dtype], dqkv);
      for (const Tensor& t : {out, stats, dqkv}) {
        const Tensor read = wide.view({wide.size()}).slice(0, t.size());
        backend->convert(t.view({t.size()}), read);
        results.emplace_back(static_cast<size_t>(t.size()));
        backend->to_host(results.back().data(), read);
      }
      return results;
    };
    const Results want = run(DType::f32), have = run(DType::bf16), again = run(DType::bf16);
    EXPECT_EQ(have, again);
    for (size_t i = 0; i < want.size(); ++i) {
      double difference = 0, size = 0;
      for (size_t j = 0; j < want[i].size(); ++j) {
        const double x = want[i][j], error = have[i][j] - x;
        difference += error * error;
        size += x * x;
      }
      EXPECT_LT(std::sqrt(difference / size), 1e-2) << "result " << i;
    }
  }
}

// Sums are taken in a fixed order: the same call gives the same bits.
TEST(Cuda, GradientsAreReproducible) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  constexpr int64_t M = 4096, N = 256, K = 512;
  const auto backend = make_backend("cuda");
  const Buffer buffer = backend->allocate(size_t{32} << 20);
  Arena arena(buffer.data());
  Random random(3, 1);
  const auto filled = [&](const Shape& shape, DType dtype) {
    const Tensor values = arena.make(shape, DType::f32), t = arena.make(shape, dtype);
    std::vector<float> host(static_cast<size_t>(shape.size()));
    for (float& x : host) x = static_cast<float>(random.normal());
    backend->from_host(values, host.data());
    backend->convert(values, t);
    return t;
  };
  const Tensor dy = filled({M, N}, DType::bf16), x = filled({M, K}, DType::bf16);
  const Tensor xhat = filled({M, N}, DType::bf16);
  const Tensor rstd = filled({M}, DType::f32), weight = filled({N}, DType::f32);
  const Tensor dsum = arena.make({M, N}, DType::bf16);
  const Tensor gradients = arena.make({N * K + 3 * N}, DType::f32);
  std::vector<float> first(static_cast<size_t>(gradients.size())), again(first.size());
  for (std::vector<float>* out : {&first, &again}) {
    backend->zero(gradients);
    const auto part = [&](int64_t at, int64_t n) { return gradients.slice(at, n); };
    backend->linear_backward_weight(dy, x, part(0, N * K).view({N, K}), part(N * K, N));
    backend->residual_norm_backward(dy, xhat, rstd, weight, {}, false, dsum, {}, part(N * K + N, N),
                                    part(N * K + 2 * N, N));
    backend->to_host(out->data(), gradients);
  }
  EXPECT_EQ(first, again);
}

}  // namespace
}  // namespace megabyte
