#include "train/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/cost.h"

namespace megabyte {
namespace {

using testing::HasSubstr;

TEST(TrainSettings, GoThroughJsonExactly) {
  TrainSettings settings;
  settings.data = {"a b", "c\"d"};
  settings.batch = 7;
  settings.lr = 0.1 + 0.2;
  settings.stage_lr = {1, 1.0 / 3};
  settings.init = {"embed=0.1"};
  settings.seed = ~uint64_t{0};
  settings.minutes = 1.0 / 3;
  settings.checkpoint_activations = true;
  const TrainSettings back = parse_train_settings(to_json(settings), "test");
  for_each_setting([&](const char* name, auto member, bool) {
    EXPECT_EQ(back.*member, settings.*member) << name;
  });
}

TEST(TrainSettings, DamagedJsonNamesTheKey) {
  std::string json = to_json(TrainSettings{});
  EXPECT_THROW(parse_train_settings(json.substr(1), "test"), Error);
  json.replace(json.find("\"seed\""), 6, "\"sead\"");
  try {
    parse_train_settings(json, "training.safetensors");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("'seed'"));
    EXPECT_THAT(error.what(), HasSubstr("training.safetensors"));
  }
}

TEST(TrainSettings, BytesAreWholeSteps) {
  TrainSettings settings;
  settings.batch = 4;
  settings.accumulate = 2;
  settings.bytes = 1001;
  EXPECT_EQ(settings.budget(25).steps, 6);  // of 200 bytes
}

TEST(TrainSettings, ShortWindowsAreOfTheFirstPart) {
  TrainSettings settings;
  EXPECT_EQ(settings.window(64, 0), 64);
  settings.short_length = 16;
  settings.short_part = 0.5;
  EXPECT_EQ(settings.window(64, 0), 16);
  EXPECT_EQ(settings.window(64, 0.49), 16);
  EXPECT_EQ(settings.window(64, 0.5), 64);
  EXPECT_EQ(settings.window(8, 0), 8);  // no longer than the context
}

TEST(TrainSettings, FlopsAreOfBothWindows) {
  const Config& config = find_preset("tiny").config;
  TrainSettings settings;
  const auto at = [&](int64_t length) {
    return count_cost(config, length).training_of_read(false);
  };
  EXPECT_DOUBLE_EQ(training_flops_per_byte(config, settings, false), at(1024));
  settings.short_length = 256;
  settings.short_part = 0.25;
  EXPECT_DOUBLE_EQ(training_flops_per_byte(config, settings, false),
                   0.25 * at(256) + 0.75 * at(1024));
  EXPECT_LT(at(256), at(1024));
  EXPECT_LT(training_flops_per_byte(config, settings, false),
            training_flops_per_byte(config, settings, true));
}

TEST(TrainSettings, Fp8ComputesInBf16) {
  TrainSettings settings;
  settings.dtype = "fp8";
  EXPECT_TRUE(settings.fp8());
  EXPECT_EQ(settings.compute(), DType::bf16);
  settings.dtype = "f32";
  EXPECT_FALSE(settings.fp8());
  EXPECT_EQ(settings.compute(), DType::f32);
}

TEST(TrainSettings, SenselessValuesNameTheirOption) {
  const auto message = [](auto change) -> std::string {
    TrainSettings settings;
    settings.steps = 1;
    validate(settings);
    change(settings);
    try {
      validate(settings);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "no error";
  };
  using S = TrainSettings;
  EXPECT_THAT(message([](S& s) { s.align = 0; }), HasSubstr("--align"));
  EXPECT_THAT(message([](S& s) { s.batch = 0; }), HasSubstr("--batch"));
  EXPECT_THAT(message([](S& s) { s.accumulate = 0; }), HasSubstr("--accumulate"));
  EXPECT_THAT(message([](S& s) { s.micro_batch = 3; }), HasSubstr("--micro-batch"));
  EXPECT_THAT(message([](S& s) { s.short_length = -1; }), HasSubstr("--short-length"));
  EXPECT_THAT(message([](S& s) { s.short_part = 1.5; }), HasSubstr("--short-part"));
  EXPECT_THAT(message([](S& s) { s.lr = -1; }), HasSubstr("--lr"));
  EXPECT_THAT(message([](S& s) { s.final_lr = 2; }), HasSubstr("--final-lr"));
  EXPECT_THAT(message([](S& s) { s.init = {"embed"}; }), HasSubstr("--init embed"));
  EXPECT_THAT(message([](S& s) { s.stage_lr = {1, 0}; }), HasSubstr("--stage-lr"));
  EXPECT_THAT(message([](S& s) { s.beta1 = 1; }), HasSubstr("--beta1"));
  EXPECT_THAT(message([](S& s) { s.beta2 = -1; }), HasSubstr("--beta2"));
  EXPECT_THAT(message([](S& s) { s.dropout = {0.1, 1}; }), HasSubstr("--dropout"));
  EXPECT_THAT(message([](S& s) { s.minutes = 1; }), HasSubstr("--minutes"));
  EXPECT_THAT(message([](S& s) { s.steps = 0; }), HasSubstr("--steps"));
  EXPECT_THAT(message([](S& s) { s.save_every = 0; }), HasSubstr("--save-every"));
}

}  // namespace
}  // namespace megabyte
