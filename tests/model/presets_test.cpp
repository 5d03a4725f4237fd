#include "model/presets.h"

#include <set>

#include "model/cost.h"
#include "model/parameters.h"
#include "support/errors.h"
#include "train/settings.h"

namespace megabyte {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

int64_t stage_parameters(const Config& config, int stage) {
  int64_t count = 0;
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    if (spec.stage == stage) count += spec.shape.size();
  });
  return count;
}

TEST(PresetsTest, AllAreModels) {
  std::set<std::string> names;
  for (const Preset& preset : presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_NO_THROW(validate(preset.config, preset.name));
    EXPECT_EQ(parse_config(to_json(preset.config), preset.name), preset.config);
    EXPECT_FALSE(preset.description.empty());
    EXPECT_GE(preset.batch, 1);
    EXPECT_GT(preset.learning_rate, 0);
    EXPECT_EQ(&find_preset(preset.name), &preset);
    EXPECT_LE(preset.stage_lr.size(), preset.config.stages.size());
    for (const std::string& scale : preset.init) {
      bool found = false;
      for_each_parameter(preset.config, [&](const ParameterSpec& spec) {
        found = found || parse_initial_scale(scale).applies_to(spec);
      });
      EXPECT_TRUE(found) << preset.name << " " << scale;
    }
  }
}

TEST(PresetsTest, EveryPaperModelHasItsCounterparts) {
  for (const std::string base : {"paper-text", "paper-generation", "paper-image64",
                                 "paper-image256", "paper-image640", "paper-audio"}) {
    EXPECT_EQ(find_preset(base).config.stage_count(), 2);
    EXPECT_EQ(find_preset(base).config.stages[1].positions, Positions::none);
    EXPECT_EQ(find_preset(base + "-transformer").config.stage_count(), 1);
    EXPECT_EQ(find_preset(base + "-perceiver").config.latents, 1024);
  }
}

TEST(PresetsTest, TheHourglassAndItsTransformerCostAsMuchAByte) {
  const auto flops = [](const char* name) {
    const Preset& preset = find_preset(name);
    return training_flops_per_byte(preset.config, settings_of(preset), false);
  };
  const double ratio = flops("hourglass") / flops("hourglass-transformer");
  EXPECT_GT(ratio, 0.9);
  EXPECT_LE(ratio, 1);
}

TEST(PresetsTest, ShortWindowsDivideTheContext) {
  for (const Preset& preset : presets())
    EXPECT_EQ(preset.config.context() % settings_of(preset).window(preset.config.context(), 0), 0)
        << preset.name;
}

TEST(PresetsTest, SizesOfThePaper) {
  EXPECT_EQ(find_preset("paper-text").config.context(), 8192);
  EXPECT_EQ(find_preset("paper-image64").config.context(), 12'288);
  EXPECT_EQ(find_preset("paper-image256").config.context(), 196'608);
  EXPECT_EQ(find_preset("paper-image640").config.context(), 1'228'800);
  EXPECT_EQ(find_preset("paper-audio").config.context(), 524'288);
  // In millions, as the descriptions say.
  const auto millions = [](const char* name, int stage) {
    return (stage_parameters(find_preset(name).config, stage) + 500'000) / 1'000'000;
  };
  EXPECT_EQ(millions("paper-text", 0), 707);
  EXPECT_EQ(millions("paper-text", 1), 227);
  EXPECT_EQ(millions("paper-text-transformer", 0), 278);
  EXPECT_EQ(millions("paper-text-perceiver", 0), 248);
  EXPECT_EQ(millions("paper-generation", 0), 1211);
  EXPECT_EQ(millions("paper-generation", 1), 189);
  EXPECT_EQ(millions("paper-generation-transformer", 0), 311);
}

TEST(PresetsTest, UnknownNames) {
  const auto complaint = [](const std::string& name) {
    return test::error_of([&] { find_preset(name); });
  };
  EXPECT_THAT(complaint("tinny"), AllOf(HasSubstr("did you mean tiny?"), HasSubstr("paper-audio")));
  EXPECT_THAT(complaint("paper-img64"), HasSubstr("did you mean paper-image64?"));
  EXPECT_THAT(complaint(""), HasSubstr("there is no preset ''"));
  EXPECT_THAT(preset_names(), Contains("quickstart"));
}

}  // namespace
}  // namespace megabyte
