// Products in 8 bits (Backend::use_fp8), against f32 on the same device: that is compared with the
// reference elsewhere.
//
// What to expect. A number of b bits of mantissa, scaled by a power of two, is rounded to a
// multiple of 2^-b of its own power of two: in the mean square by at most 2^-b / sqrt(12) of
// itself, 0.036 for e4m3 and 0.072 for e5m2. Errors of independent numbers add up as squares, in a
// product as in its terms: two operands make sqrt(0.036^2 + 0.036^2) = 0.051 in forward and
// sqrt(0.036^2 + 0.072^2) = 0.081 in backward, relative to the size of the whole result. The
// largest errors are those of mantissas of 1; over all mantissas some two thirds of it remain.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "base/random.h"
#include "model/hierarchy.h"
#include "ops/ops.h"
#include "support/device.h"
#include "support/errors.h"
#include "train/trainer.h"

namespace megabyte {
namespace {

constexpr double kForward = 0.051, kBackward = 0.081;
constexpr double kBf16 = 0.005;  // products in bf16 are off by less, products in 8 bits by more
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Values = std::vector<float>;

// Of all elements together.
double relative_error(const Values& have, const Values& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (double{have[i]} - want[i]) * (double{have[i]} - want[i]);
    size += double{want[i]} * want[i];
  }
  return std::sqrt(difference / size);
}

class CudaFp8 {
 public:
  CudaFp8() : arena_(buffer_.data()) { backend->use_fp8(true); }

  std::unique_ptr<Backend> backend = make_backend("cuda");

  Values draw(int64_t n, float scale) {
    Values values(static_cast<size_t>(n));
    for (float& x : values) x = scale * static_cast<float>(random_.normal());
    return values;
  }
  Tensor make(const Shape& shape, DType dtype) { return arena_.make(shape, dtype); }
  // The values, rounded to bf16, in that type or in f32.
  Tensor upload(const Shape& shape, DType dtype, const Values& values) {
    const Tensor wide = make(shape, DType::f32), narrow = make(shape, DType::bf16);
    backend->from_host(wide, values.data());
    backend->convert(wide, narrow);
    if (dtype == DType::bf16) return narrow;
    backend->convert(narrow, wide);
    return wide;
  }
  Values download(const Tensor& t) {
    const Tensor wide = make(t.shape, DType::f32);
    backend->convert(t, wide);
    Values values(static_cast<size_t>(t.size()));
    backend->to_host(values.data(), wide);
    return values;
  }

 private:
  Buffer buffer_ = backend->allocate(size_t{3} << 30);
  Arena arena_;
  Random random_{5, 1};
};

struct Linear {
  Values y, dx, dw, dbias;
};

// y = x . w^T + bias and its gradients; dw and dbias are added to ones.
Linear linear(CudaFp8& on, DType dtype, int64_t M, int64_t N, int64_t K, const Values& x,
              const Values& w, const Values& bias, const Values& dy) {
  const Tensor x_ = on.upload({M, K}, dtype, x), w_ = on.upload({N, K}, dtype, w);
  const Tensor bias_ = on.upload({N}, DType::f32, bias), dy_ = on.upload({M, N}, dtype, dy);
  const Values ones(static_cast<size_t>(N * K), 1.0f);
  const Tensor dw = on.upload({N, K}, DType::f32, ones), dbias = on.upload({N}, DType::f32, ones);
  const Tensor y = on.make({M, N}, dtype), dx = on.make({M, K}, dtype);
  on.backend->linear_forward(x_, w_, bias_, Activation::none, {}, y);
  on.backend->linear_backward(dy_, x_, w_, dw, dbias, dx);
  Linear result{on.download(y), on.download(dx), on.download(dw), on.download(dbias)};
  for (Values* sums : {&result.dw, &result.dbias})
    for (float& value : *sums) value -= 1;
  return result;
}

#define SKIP_WITHOUT_CUDA() \
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why

// Sizes that do and do not fill the tiles of the conversion; numbers of any size.
TEST(Cuda, Fp8LinearLayers) {
  SKIP_WITHOUT_CUDA();
  for (const auto& [M, N, K] : {std::array<int64_t, 3>{4096, 2048, 2048}, {4112, 2096, 2064}})
    for (const auto& [x_scale, dy_scale] :
         {std::pair{1.0f, 1.0f}, {3e4f, 1e-6f}, {2e-3f, 100.0f}}) {
      CudaFp8 on;
      // Gradients as large as the ones that they are added to, for the subtraction's sake.
      const float dw_scale = std::sqrt(static_cast<float>(M)) * x_scale * dy_scale;
      const Values x = on.draw(M * K, x_scale), w = on.draw(N * K, 0.02f);
      const Values bias = on.draw(N, x_scale), dy = on.draw(M * N, dy_scale / dw_scale);
      const Linear have = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
      const Linear want = linear(on, DType::f32, M, N, K, x, w, bias, dy);
      EXPECT_LT(relative_error(have.y, want.y), kForward);
      EXPECT_GT(relative_error(have.y, want.y), kBf16);
      EXPECT_LT(relative_error(have.dx, want.dx), kBackward);
      EXPECT_GT(relative_error(have.dx, want.dx), kBf16);
      EXPECT_LT(relative_error(have.dw, want.dw), kBackward);
      EXPECT_GT(relative_error(have.dw, want.dw), kBf16);
      EXPECT_LT(relative_error(have.dbias, want.dbias), kBf16);  // sums of what was not converted
    }
}

// Where converting costs more than it gains, it is not done: the bits are those without.
TEST(Cuda, Fp8LeavesSmallProducts) {
  SKIP_WITHOUT_CUDA();
  constexpr int64_t M = 4096, N = 256, K = 256;
  CudaFp8 on;
  const Values x = on.draw(M * K, 1), w = on.draw(N * K, 0.02f), bias = on.draw(N, 1);
  const Values dy = on.draw(M * N, 1);
  const Linear have = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
  on.backend->use_fp8(false);
  const Linear want = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
  EXPECT_EQ(have.y, want.y);
  EXPECT_EQ(have.dx, want.dx);
  EXPECT_EQ(have.dw, want.dw);
  EXPECT_EQ(have.dbias, want.dbias);
}

// One number far above all others, which no sample sees, and a matrix of which only one row is not
// zero: the scale is found all the same. Nothing of it is left for the next call.
TEST(Cuda, Fp8FindsTheScaleOfUnevenNumbers) {
  SKIP_WITHOUT_CUDA();
  constexpr int64_t M = 4096, N = 2048, K = 2048;
  CudaFp8 on;
  const Values x = on.draw(M * K, 1), w = on.draw(N * K, 0.02f), bias(N, 0.0f);
  const Values dy = on.draw(M * N, 1e-4f);
  const Linear before = linear(on, DType::bf16, M, N, K, x, w, bias, dy);

  Values spiked_x = x, spiked_dy = dy;
  spiked_x[1234567] = 2048;
  spiked_dy[1234567] = 2e3f;
  const Linear spiked = linear(on, DType::bf16, M, N, K, spiked_x, w, bias, spiked_dy);
  const Linear want = linear(on, DType::f32, M, N, K, spiked_x, w, bias, spiked_dy);
  EXPECT_LT(relative_error(spiked.y, want.y), kForward);
  EXPECT_LT(relative_error(spiked.dx, want.dx), kBackward);
  EXPECT_LT(relative_error(spiked.dw, want.dw), kBackward);
  // Nor is the accuracy of the other rows lost.
  const auto rest = [](const Values& all, int64_t cols) {
    const int64_t row = 1234567 / cols;
    Values others(all.begin(), all.begin() + row * cols);
    others.insert(others.end(), all.begin() + (row + 1) * cols, all.end());
    return others;
  };
  EXPECT_LT(relative_error(rest(spiked.y, N), rest(want.y, N)), kForward);
  EXPECT_LT(relative_error(rest(spiked.dx, K), rest(want.dx, K)), kBackward);

  Values sparse_x(x.size(), 0.0f), sparse_dy(dy.size(), 0.0f);
  for (int64_t i = 0; i < K; ++i) sparse_x[77 * K + i] = 1e-6f * x[i];
  for (int64_t i = 0; i < N; ++i) sparse_dy[77 * N + i] = 1e4f * dy[i];
  const Linear sparse = linear(on, DType::bf16, M, N, K, sparse_x, w, bias, sparse_dy);
  const Linear sparse_want = linear(on, DType::f32, M, N, K, sparse_x, w, bias, sparse_dy);
  EXPECT_LT(relative_error(sparse.y, sparse_want.y), kForward);
  EXPECT_LT(relative_error(sparse.dx, sparse_want.dx), kBackward);

  const Linear after = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
  EXPECT_EQ(after.y, before.y);
  EXPECT_EQ(after.dx, before.dx);
  EXPECT_EQ(after.dw, before.dw);
}

TEST(Cuda, Fp8OfZeros) {
  SKIP_WITHOUT_CUDA();
  constexpr int64_t M = 4096, N = 2048, K = 2048;
  CudaFp8 on;
  const Values x(M * K, 0.0f), w = on.draw(N * K, 0.02f), bias(N, 0.5f), dy(M * N, 0.0f);
  const Linear have = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
  EXPECT_EQ(have.y, Values(M * N, 0.5f));
  EXPECT_EQ(have.dx, Values(M * K, 0.0f));
  EXPECT_EQ(have.dw, Values(N * K, 0.0f));
  EXPECT_EQ(have.dbias, Values(N, 0.0f));
}

// What is not finite shows in the result, so that the step is skipped.
TEST(Cuda, Fp8KeepsWhatIsNotFinite) {
  SKIP_WITHOUT_CUDA();
  constexpr int64_t M = 4096, N = 2048, K = 2048;
  for (const float bad : {std::numeric_limits<float>::infinity(), kNaN}) {
    CudaFp8 on;
    Values x = on.draw(M * K, 1), dy = on.draw(M * N, 1);
    const Values w = on.draw(N * K, 0.02f), bias(N, 0.0f);
    const Linear good = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
    Values bad_x = x, bad_dy = dy;
    bad_x[7654321] = bad;
    bad_dy[7654321] = -bad;
    const Linear have = linear(on, DType::bf16, M, N, K, bad_x, w, bias, bad_dy);
    EXPECT_FALSE(std::isfinite(have.y[7654321 / K * N]));
    EXPECT_FALSE(std::isfinite(have.dx[7654321 / N * K]));
    EXPECT_FALSE(std::isfinite(have.dw[7654321 % N * K]));
    const Linear after = linear(on, DType::bf16, M, N, K, x, w, bias, dy);
    EXPECT_EQ(after.y, good.y);
    EXPECT_EQ(after.dw, good.dw);
  }
}

// Two products with gelu between them: each operand that was converted adds its error, and what
// comes from the product before has that one's.
TEST(Cuda, Fp8FeedForward) {
  SKIP_WITHOUT_CUDA();
  constexpr int64_t M = 4096, D = 1024, F = 4096;
  CudaFp8 on;
  const Values x = on.draw(M * D, 1), up = on.draw(F * D, 0.03f), down = on.draw(D * F, 0.02f);
  const Values up_bias = on.draw(F, 0.1f), down_bias = on.draw(D, 0.1f), dy = on.draw(M * D, 1e-5f);
  struct Result {
    Values y, y_alone, dx, up, up_bias, down, down_bias;
  };
  const auto run = [&](DType dtype) {
    const FeedForward w{on.upload({F, D}, dtype, up), on.upload({F}, DType::f32, up_bias),
                        on.upload({D, F}, dtype, down), on.upload({D}, DType::f32, down_bias)};
    const FeedForward dw{on.make({F, D}, DType::f32), on.make({F}, DType::f32),
                         on.make({D, F}, DType::f32), on.make({D}, DType::f32)};
    for (const Tensor& t : {dw.up, dw.up_bias, dw.down, dw.down_bias}) on.backend->zero(t);
    const Tensor x_ = on.upload({M, D}, dtype, x), dy_ = on.upload({M, D}, dtype, dy);
    const Tensor pre = on.make({M, F}, dtype), hidden = on.make({M, F}, dtype);
    const Tensor dhidden = on.make({M, F}, dtype), y = on.make({M, D}, dtype);
    const Tensor dx = on.make({M, D}, dtype);
    on.backend->feed_forward(w, Activation::gelu, x_, {}, hidden, y);
    Result result;
    result.y_alone = on.download(y);
    on.backend->feed_forward(w, Activation::gelu, x_, pre, hidden, y);
    result.y = on.download(y);
    for (const Tensor& kept : {pre, hidden}) on.backend->zero(kept);
    on.backend->feed_forward(w, Activation::gelu, x_, pre, hidden, {});  // computes it again
    on.backend->feed_forward_backward(w, Activation::gelu, dy_, x_, pre, hidden, dhidden, dw, dx);
    result.dx = on.download(dx);
    result.up = on.download(dw.up);
    result.up_bias = on.download(dw.up_bias);
    result.down = on.download(dw.down);
    result.down_bias = on.download(dw.down_bias);
    return result;
  };
  const Result have = run(DType::bf16), want = run(DType::f32);
  EXPECT_EQ(have.y, have.y_alone);
  EXPECT_LT(relative_error(have.y, want.y), std::hypot(kForward, kForward));
  EXPECT_GT(relative_error(have.y, want.y), kBf16);
  EXPECT_LT(relative_error(have.down, want.down), std::hypot(kBackward, kForward));
  EXPECT_LT(relative_error(have.down_bias, want.down_bias), kBf16);
  // The slope is taken at a pre-activation that is off, too: by no more than it is itself.
  const double dhidden = std::hypot(kBackward, kForward);
  EXPECT_LT(relative_error(have.up_bias, want.up_bias), dhidden);
  EXPECT_LT(relative_error(have.up, want.up), std::hypot(dhidden, kBackward));
  EXPECT_LT(relative_error(have.dx, want.dx), std::hypot(dhidden, kBackward));
  EXPECT_GT(relative_error(have.dx, want.dx), kBf16);
}

// Whole steps: close to bf16, and the same bits every time, also where activations are computed
// again; so a resumed run is the run that went on. Validation is without: it scores the model as
// others will use it.
TEST(Cuda, Fp8Training) {
  SKIP_WITHOUT_CUDA();
  Config config;
  for (const int64_t dim : {1024, 128}) {
    StageConfig stage;
    stage.length = dim == 1024 ? 1024 : 8;
    stage.dim = dim;
    stage.layers = 1;
    stage.heads = 4;
    stage.ffn = 4 * dim;
    config.stages.push_back(stage);
  }
  std::vector<uint16_t> tokens(static_cast<size_t>(4 * config.context()));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint16_t>(i * i % 251 % 96);
  struct Result {
    std::vector<double> losses;
    double validation;
    std::vector<float> values;
  };
  const auto run = [&](const std::string& dtype, bool checkpoint) {
    const auto backend = make_backend("cuda");
    TrainSettings settings;
    settings.batch = 4;
    settings.dtype = dtype;
    settings.checkpoint_activations = checkpoint;
    Hierarchy model(config, *backend, settings.compute(), true);
    Trainer trainer(model, settings);
    model.parameters().initialize(1);
    Result result;
    for (int64_t i = 0; i < 6; ++i) {
      const StepResult step = trainer.step(tokens.data(), i, 1e-3);
      EXPECT_TRUE(step.finite);
      result.losses.push_back(step.loss);
    }
    result.validation = trainer.validate({tokens, config.context()}).value();
    result.values.resize(static_cast<size_t>(model.parameters().values().size()));
    backend->to_host(result.values.data(), model.parameters().values());
    return result;
  };
  const Result have = run("fp8", false), bf16 = run("bf16", false);
  for (const bool checkpoint : {false, true}) {
    const Result again = run("fp8", checkpoint);
    EXPECT_EQ(have.losses, again.losses);
    EXPECT_EQ(have.values, again.values);
  }
  EXPECT_NE(have.values, bf16.values);
  EXPECT_LT(have.losses.back(), have.losses.front() - 0.5);
  for (size_t i = 0; i < have.losses.size(); ++i)
    EXPECT_NEAR(have.losses[i], bf16.losses[i], 0.02 * bf16.losses[i]) << "step " << i;
  EXPECT_NEAR(have.validation, bf16.validation, 0.02 * bf16.validation);
}

}  // namespace
}  // namespace megabyte
