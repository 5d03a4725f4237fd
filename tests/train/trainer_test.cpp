#include "train/trainer.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "base/random.h"
#include "support/configs.h"
#include "support/device.h"

namespace megabyte {
namespace {

Config small_config() { return test::small_configs().front().config; }

// Rows of a text that repeats, so that there is something to learn.
std::vector<uint16_t> text_rows(int64_t rows, int64_t length, uint64_t seed = 1) {
  const std::string text = "to be or not to be ";
  Random random(seed, 0);
  std::vector<uint16_t> tokens;
  for (int64_t row = 0; row < rows; ++row) {
    const uint64_t begin = random.below(text.size());
    for (int64_t i = 0; i < length; ++i)
      tokens.push_back(
          static_cast<unsigned char>(text[(begin + static_cast<uint64_t>(i)) % text.size()]));
  }
  return tokens;
}

struct Training {
  std::unique_ptr<Backend> backend;
  Hierarchy model;
  Trainer trainer;

  explicit Training(const TrainSettings& settings, DType compute = DType::f64,
                    const Config& config = small_config(), const std::string& device = "reference")
      : backend(make_backend(device)),
        model(config, *backend, compute, true),
        trainer(model, settings) {
    model.parameters().initialize(settings.seed);
  }

  StepResult step(int64_t i, double lr = 1e-2) { return trainer.step(tokens(i).data(), i, lr); }
  std::vector<uint16_t> tokens(int64_t i) const {
    return text_rows(8, model.config().context(), static_cast<uint64_t>(i));
  }
  std::vector<double> values() const {
    const Tensor values = model.parameters().values();
    if (values.dtype == DType::f64) {
      std::vector<double> out(static_cast<size_t>(values.size()));
      backend->to_host(out.data(), values);
      return out;
    }
    std::vector<float> out(static_cast<size_t>(values.size()));
    backend->to_host(out.data(), values);
    return {out.begin(), out.end()};
  }
};

TrainSettings eight_rows() {
  TrainSettings settings;
  settings.batch = 8;
  return settings;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

TEST(Trainer, LossFalls) {
  Training training(eight_rows());
  const double first = training.step(0).loss;
  EXPECT_NEAR(first, std::log(256), 0.1);  // knows nothing yet
  double last = 0;
  for (int64_t i = 1; i < 60; ++i) last = training.step(i).loss;
  EXPECT_LT(last, 0.4 * first);
}

TEST(Trainer, PartsOfABatchAddUpToTheBatch) {
  Training whole(eight_rows());
  StepResult expected;
  for (int64_t i = 0; i < 3; ++i) expected = whole.step(i);
  for (const auto& [batch, accumulate, micro] :
       {std::array{8, 1, 2}, std::array{2, 4, 0}, std::array{4, 2, 1}, std::array{2, 4, 8}}) {
    TrainSettings settings;
    settings.batch = batch;
    settings.accumulate = accumulate;
    settings.micro_batch = micro;
    Training parts(settings);
    StepResult got;
    for (int64_t i = 0; i < 3; ++i) got = parts.step(i);
    EXPECT_NEAR(got.loss, expected.loss, 1e-9);
    EXPECT_NEAR(got.grad_norm, expected.grad_norm, 1e-9 * expected.grad_norm);
    EXPECT_LT(largest_difference(parts.values(), whole.values()), 1e-7);  // AdamW divides
  }
}

TEST(Trainer, CheckpointedActivationsChangeNothing) {
  for (const test::NamedConfig& named : test::small_configs()) {
    TrainSettings settings = eight_rows();
    settings.dropout = {0.2};
    Training kept(settings, DType::f32, named.config);
    settings.checkpoint_activations = true;
    Training recomputed(settings, DType::f32, named.config);
    EXPECT_EQ(kept.step(0).loss, recomputed.step(0).loss) << named.name;
    EXPECT_EQ(kept.values(), recomputed.values()) << named.name;
  }
}

TEST(Trainer, ShortWindowsMakeAStepOfAsManyBytes) {
  for (const int64_t micro : {0, 2}) {
    TrainSettings settings = eight_rows();
    settings.micro_batch = micro;
    Training training(settings);
    const int64_t context = training.model.config().context();
    for (const int64_t length : {context / 2, context}) {
      const Rows rows{.tokens = text_rows(8 * context / length, length), .length = length};
      const double expected = *training.trainer.validate(rows) * std::numbers::ln2;
      training.trainer.use_windows(length);
      EXPECT_NEAR(training.trainer.step(rows.tokens.data(), 0, 1e-2).loss, expected, 1e-12);
    }
  }
}

TEST(Trainer, DropoutFollowsFromSeedAndStep) {
  TrainSettings settings = eight_rows();
  Training plain(settings);
  settings.dropout = {0.3};
  Training one(settings), same(settings);
  const double loss = one.step(5).loss;
  EXPECT_EQ(loss, same.step(5).loss);
  EXPECT_NE(loss, plain.step(5).loss);
  Training later(settings);
  EXPECT_NE(loss, later.trainer.step(later.tokens(5).data(), 6, 1e-2).loss);
}

TEST(Trainer, StagesHaveDropoutOfTheirOwn) {
  const auto loss = [](std::vector<double> rates) {
    TrainSettings settings = eight_rows();
    settings.dropout = std::move(rates);
    return Training(settings).step(5).loss;
  };
  EXPECT_EQ(loss({0.3}), loss({0.3, 0.3}));
  EXPECT_EQ(loss({0.3, 0}), loss({0.3, 0, 0.5}));  // there is no third stage
  EXPECT_EQ(loss({0, 0}), loss({}));
  EXPECT_NE(loss({0.3, 0}), loss({0.3}));
  EXPECT_NE(loss({0.3, 0}), loss({}));
  EXPECT_NE(loss({0.3, 0}), loss({0, 0.3}));
}

TEST(Trainer, AStepThatIsNotFiniteChangesNothing) {
  Training training(eight_rows(), DType::f32);
  training.step(0);
  const Tensor pad = training.model.parameters().master("stages.0.pad");
  std::vector<float> values(static_cast<size_t>(pad.size()));
  training.backend->to_host(values.data(), pad);
  std::vector<float> broken = values;
  broken[1] = std::numeric_limits<float>::quiet_NaN();
  training.backend->from_host(pad, broken.data());
  const StepResult skipped = training.step(1);
  EXPECT_FALSE(skipped.finite);
  training.backend->from_host(pad, values.data());
  Training other(eight_rows(), DType::f32);
  other.step(0);
  EXPECT_EQ(training.values(), other.values());
  EXPECT_TRUE(training.step(1).finite);
  other.step(1);
  EXPECT_EQ(training.values(), other.values());  // the moments, too, were left alone
}

TEST(Trainer, ValidatesEveryRowOnce) {
  TrainSettings settings;
  settings.batch = 3;  // does not divide the rows
  Training training(settings);
  const int64_t length = training.model.config().context() - 3;
  const Rows rows{.tokens = text_rows(7, length), .length = length};
  training.model.prepare({.batch = 7, .length = length});
  training.model.load(rows.tokens.data());
  training.model.forward();
  training.model.loss(1);
  std::vector<double> losses;
  training.model.copy_losses(losses);
  double sum = 0;
  for (const double x : losses) sum += x;
  const auto bpb = training.trainer.validate(rows);
  ASSERT_TRUE(bpb.has_value());
  EXPECT_NEAR(*bpb, sum / (std::numbers::ln2 * static_cast<double>(7 * length)), 1e-12);
  EXPECT_FALSE(training.trainer.validate({}).has_value());
}

TEST(Trainer, DecaysMatricesOnly) {
  TrainSettings settings = eight_rows();
  Training with(settings);
  settings.weight_decay = 0;
  Training none(settings);
  with.step(0, 0.1);
  none.step(0, 0.1);
  const Parameters& parameters = with.model.parameters();
  for (const ParameterSpec& spec : parameters.specs()) {
    const auto n = static_cast<size_t>(spec.shape.size());
    std::vector<double> a(n), b(n);
    with.backend->to_host(a.data(), parameters.master(spec.name));
    none.backend->to_host(b.data(), none.model.parameters().master(spec.name));
    const bool matrix =
        spec.kind == ParameterKind::matrix || spec.kind == ParameterKind::convolution;
    EXPECT_EQ(a != b, matrix) << spec.name;
  }
}

TEST(Trainer, StagesHaveRatesOfTheirOwn) {
  TrainSettings settings = eight_rows();
  settings.weight_decay = 0;
  const Training start(settings);
  Training one(settings);
  settings.stage_lr = {0.5, 2};
  Training own(settings);
  one.step(0);
  own.step(0);
  const auto values = [](const Training& training, const ParameterSpec& spec) {
    std::vector<double> out(static_cast<size_t>(spec.shape.size()));
    training.backend->to_host(out.data(), training.model.parameters().master(spec.name));
    return out;
  };
  for (const ParameterSpec& spec : start.model.parameters().specs()) {
    const std::vector<double> before = values(start, spec), a = values(one, spec),
                              b = values(own, spec);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(b[i] - before[i], (spec.stage == 0 ? 0.5 : 2) * (a[i] - before[i]), 1e-12)
          << spec.name;
  }
}

TEST(Trainer, StartedStepsGiveTheSameAsStepsOneByOne) {
  Training one_by_one(eight_rows()), ahead(eight_rows());
  std::vector<double> expected, got;
  for (int64_t i = 0; i < 4; ++i) expected.push_back(one_by_one.step(i).loss);
  for (int64_t i = 0; i < 4; ++i) {
    ahead.trainer.start(ahead.tokens(i).data(), i, 1e-2);
    if (i > 0) got.push_back(ahead.trainer.finish().loss);
  }
  got.push_back(ahead.trainer.finish().loss);
  EXPECT_EQ(got, expected);
  EXPECT_EQ(ahead.values(), one_by_one.values());
  EXPECT_THROW(ahead.trainer.finish(), Error);
}

// From the second step on the device replays a recorded step.
TEST(Cuda, FiftyStepsFollowTheReference) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  for (const test::NamedConfig& named : test::small_configs()) {
    SCOPED_TRACE(named.name);
    TrainSettings settings = eight_rows();
    settings.micro_batch = 4;
    Training reference(settings, DType::f64, named.config);
    Training device(settings, DType::f32, named.config, "cuda");
    for (int64_t i = 0; i < 50; ++i) {
      const double expected = reference.step(i, 3e-3).loss;
      ASSERT_NEAR(device.step(i, 3e-3).loss, expected, 2e-3 * expected) << "step " << i;
    }
  }
}

TEST(Cuda, ARecordedStepDrawsAnew) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  TrainSettings settings = eight_rows();
  settings.micro_batch = 4;
  settings.dropout = {0.3, 0.1};
  Training reference(settings);
  Training device(settings, DType::f32, small_config(), "cuda");
  for (int64_t i = 0; i < 10; ++i) {
    const double expected = reference.step(i, 3e-3).loss;
    ASSERT_NEAR(device.step(i, 3e-3).loss, expected, 1e-4 * expected) << "step " << i;
  }
}

TEST(Cuda, TrainingIsReproducible) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  for (const double dropout : {0.0, 0.2})
    for (const DType compute : {DType::f32, DType::bf16}) {
      TrainSettings settings = eight_rows();
      settings.dropout = {dropout};
      Training once(settings, compute, small_config(), "cuda");
      Training again(settings, compute, small_config(), "cuda");
      const Rows held_out{text_rows(4, small_config().context()), small_config().context()};
      for (int64_t i = 0; i < 12; ++i) {
        EXPECT_EQ(once.step(i).loss, again.step(i).loss);
        if (i == 5) again.trainer.validate(held_out);  // what was recorded is recorded anew
      }
      EXPECT_EQ(once.values(), again.values());
    }
}

}  // namespace
}  // namespace megabyte
