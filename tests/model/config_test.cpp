#include "model/config.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/command.h"
#include "support/configs.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

Config megabyte_config() {
  return {
      .stages = {{16, 96, 2, 4, 128, Positions::learned}, {8, 32, 1, 4, 64, Positions::rotary}}};
}

std::string with_stage(const std::string& extra) {
  return R"({"stages": [{"length": 8, "dim": 32, "layers": 1, "heads": 4, "ffn": 64)" + extra +
         "}]}";
}

std::string config_complaint(const std::string& json) {
  return test::error_of([&] { parse_config(json, "config.json"); });
}

// What validate() says after one --set.
std::string invalid(const std::string& assignment, Config config = megabyte_config()) {
  set_key(config, assignment);
  const std::string message = test::error_of([&] { validate(config, "here"); });
  EXPECT_THAT(message, StartsWith("here: "));
  return message;
}

TEST(ConfigTest, Sizes) {
  Config config = megabyte_config();
  EXPECT_EQ(config.patch_bytes(0), 8);
  EXPECT_EQ(config.patch_bytes(1), 1);
  EXPECT_EQ(config.context(), 128);
}

TEST(ConfigTest, GoldenConfigsComeBackAsTheyWere) {
  const fs::path source = MEGABYTE_SOURCE_DIR;
  int seen = 0;
  for (const fs::path& root : {source / "tests/fixtures", source / "../shared/golden"}) {
    if (!fs::is_directory(root)) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      const fs::path file = entry.path() / "config.json";
      if (!fs::exists(file)) continue;
      const Config config = load_config(file);
      EXPECT_EQ(nlohmann::json::parse(to_json(config)),
                nlohmann::json::parse(test::read_file(file)))
          << file;
      EXPECT_EQ(parse_config(to_json(config), "again"), config);
      ++seen;
    }
  }
  EXPECT_GT(seen, 0);
}

TEST(ConfigTest, EveryFeatureSurvivesWritingAndReading) {
  for (const test::NamedConfig& c : test::small_configs()) {
    EXPECT_NO_THROW(validate(c.config, c.name));
    EXPECT_EQ(parse_config(to_json(c.config), c.name), c.config) << c.name;
  }
}

TEST(ConfigTest, DefaultsAndTheLeastThatIsNeeded) {
  const Config config = parse_config(with_stage(""), "x");
  EXPECT_EQ(config.vocab_size, 256);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.stages[0].positions, Positions::learned);
  EXPECT_EQ(config.stages[0].attention, AttentionKind::softmax);
  EXPECT_THAT(to_json(config), Not(HasSubstr("cross_patch")));
  EXPECT_THAT(config_complaint("{}"), HasSubstr("key 'stages' is missing"));
  EXPECT_THAT(config_complaint(R"({"stages": [{"length": 1}]})"),
              HasSubstr("key 'stages.0.dim' is missing"));
}

TEST(ConfigTest, UnknownKeysAndWrongTypes) {
  EXPECT_THAT(config_complaint(R"({"stage": []})"),
              AllOf(StartsWith("config.json: unknown key 'stage'"), HasSubstr("vocab_size")));
  EXPECT_THAT(config_complaint(with_stage(R"(, "dims": 3)")),
              AllOf(HasSubstr("'stages.0.dims'"), HasSubstr("cross_patch")));
  EXPECT_THAT(config_complaint("[]"), HasSubstr("the config must be an object, not []"));
  EXPECT_THAT(config_complaint(R"({"stages": {}})"), HasSubstr("stages must be a list"));
  EXPECT_THAT(config_complaint(R"({"stages": [3]})"),
              HasSubstr("stages.0 must be an object, not 3"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "cross_patch": 1.5)")),
              HasSubstr("stages.0.cross_patch must be a whole number, not 1.5"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "cross_patch": 9223372036854775808)")),
              HasSubstr("must be a whole number"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "cross_patch": 1e30)")), HasSubstr("whole number"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "positions": "sine")")),
              HasSubstr(R"(must be "none" or "learned" or "rotary", not "sine")"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "positions": 1)")), HasSubstr("not 1"));
  EXPECT_THAT(config_complaint(R"({"tie_embeddings": 1, "stages": []})"),
              HasSubstr("true or false"));
  EXPECT_THAT(config_complaint(R"({"norm_eps": "1", "stages": []})"),
              HasSubstr("norm_eps must be a number"));
  EXPECT_THAT(config_complaint(R"({"patch_encoder": [3, null], "stages": []})"),
              HasSubstr("patch_encoder.1 must be a whole number, not null"));
  EXPECT_THAT(config_complaint("{\"stages\": NaN}"), HasSubstr("line 1, column 12"));
  EXPECT_THAT(config_complaint(with_stage(R"(, "dim": 32)")), HasSubstr("'dim' stands twice"));
}

TEST(ConfigTest, FilesOfNewerPrograms) {
  std::string json = with_stage("");
  json.insert(1, R"("format_version": 1, )");
  EXPECT_NO_THROW(parse_config(json, "x"));
  EXPECT_THAT(config_complaint(R"({"format_version": 2, "something": "new"})"),
              AllOf(HasSubstr("newer megabyte"), HasSubstr("update")));
  EXPECT_THAT(config_complaint(R"({"format_version": "2"})"), HasSubstr("format_version must be"));
}

TEST(ConfigTest, Files) {
  test::TemporaryFolder folder;
  EXPECT_THAT(test::error_of([&] { load_config(folder / "none.json"); }),
              AllOf(HasSubstr("none.json"), HasSubstr("No such file")));
  EXPECT_THAT(test::error_of([&] { load_config(folder.path()); }), HasSubstr("not a regular file"));
  test::write_file(folder / "bad.json", "{\n1}");
  EXPECT_THAT(test::error_of([&] { load_config(folder / "bad.json"); }),
              AllOf(HasSubstr("bad.json"), HasSubstr("line 2")));
}

TEST(ConfigTest, Ranges) {
  EXPECT_THAT(invalid("vocab_size=1"), HasSubstr("vocab_size is 1: use 2 to 65536"));
  EXPECT_THAT(invalid("vocab_size=65537"), HasSubstr("use 2 to 65536"));
  EXPECT_THAT(invalid("norm_eps=0"), HasSubstr("norm_eps"));
  EXPECT_THAT(invalid("norm_eps=-1"), HasSubstr("norm_eps"));
  EXPECT_THAT(invalid("stages=[]"), HasSubstr("stages is empty"));
  EXPECT_THAT(invalid("patch_encoder=[0]"), HasSubstr("patch_encoder.0 is 0"));
  for (const char* key : {"length", "dim", "heads", "ffn"})
    EXPECT_THAT(invalid(fmt::format("stages.1.{}=0", key)),
                HasSubstr(fmt::format("stages.1.{}", key)));
  for (const char* key : {"layers", "encoder_layers", "cross_patch"})
    EXPECT_THAT(invalid(fmt::format("stages.1.{}=-1", key)), HasSubstr("is -1: use 0"));
  for (const char* key : {"length", "dim", "heads", "ffn", "layers", "cross_patch"})
    EXPECT_THAT(invalid(fmt::format("stages.0.{}=9223372036854775807", key)), HasSubstr(key));
  EXPECT_THAT(invalid("stages.0.length=1000000000"), HasSubstr("product of all lengths"));
  Config many = megabyte_config();
  many.stages.resize(17, many.stages[1]);
  EXPECT_THAT(test::error_of([&] { validate(many, "here"); }), HasSubstr("17 stages"));
  Config none = megabyte_config();
  none.activation = Activation::none;
  EXPECT_THROW(validate(none, "here"), Error);
}

TEST(ConfigTest, SizesThatDoNotDivide) {
  EXPECT_THAT(
      invalid("stages.0.dim=100"),
      HasSubstr("stages.0.dim 100 is not divisible by the 8 bytes of a patch: use 96 or 104"));
  EXPECT_THAT(invalid("stages.0.dim=4"), HasSubstr("use 8"));
  EXPECT_THAT(invalid("stages.1.length=5"), HasSubstr("5 bytes of a patch: use 80 or 100"));
  EXPECT_THAT(
      invalid("stages.0.heads=5"),
      HasSubstr("96 is not divisible by 5 heads: use stages.0.heads 4 or 6, or dim 80 or 120"));
  EXPECT_THAT(invalid("stages.0.heads=1000"), HasSubstr("use stages.0.heads 96"));
  EXPECT_THAT(invalid("stages.1.heads=32"), HasSubstr("even head width"));
}

TEST(ConfigTest, FeaturesThatExcludeEachOther) {
  EXPECT_THAT(invalid("stages.0.cross_patch=4"), HasSubstr("stage 0 has no parent"));
  EXPECT_THAT(invalid("stages.0.encoder_layers=1"), HasSubstr("stage 0 has none"));
  EXPECT_THAT(invalid("latents=4"), HasSubstr("for one stage, but there are 2"));
  Config encoding = megabyte_config();
  encoding.stages[1].encoder_layers = 1;
  EXPECT_THAT(invalid("patch_encoder=[3]", encoding), HasSubstr("remove patch_encoder"));
  Config perceiver{.latents = 8, .stages = {{64, 32, 2, 4, 64}}};
  EXPECT_NO_THROW(validate(perceiver, "here"));
  EXPECT_THAT(invalid("latents=65", perceiver), HasSubstr("latents is 65: use 1 to 64"));
  EXPECT_THAT(invalid("latents=-1", perceiver), HasSubstr("use 1 to 64"));
  EXPECT_THAT(invalid("stages.0.layers=0", perceiver), HasSubstr("latents need a layer"));
}

TEST(ConfigTest, SetKey) {
  Config config = megabyte_config();
  set_key(config, "stages.1.layers=4");
  set_key(config, "stages.1.positions=none");
  set_key(config, "activation=relu");
  set_key(config, "tie_embeddings=false");
  set_key(config, "norm_eps=1e-6");
  set_key(config, "patch_encoder=[3, 5]");
  EXPECT_EQ(config.stages[1].layers, 4);
  EXPECT_EQ(config.stages[1].positions, Positions::none);
  EXPECT_EQ(config.activation, Activation::relu);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.norm_eps, 1e-6);
  EXPECT_EQ(config.patch_encoder, (std::vector<int64_t>{3, 5}));
  set_key(config, "patch_encoder.1=7");
  EXPECT_EQ(config.patch_encoder, (std::vector<int64_t>{3, 7}));
}

TEST(ConfigTest, SetKeyErrors) {
  Config config = megabyte_config();
  const auto bad = [&](const std::string& assignment) {
    EXPECT_THROW(set_key(config, assignment), UsageError);
    const std::string message = test::error_of([&] { set_key(config, assignment); });
    EXPECT_THAT(message, StartsWith("--set " + assignment + ": "));
    return message;
  };
  EXPECT_THAT(bad("layers"), HasSubstr("write key=value"));
  EXPECT_THAT(bad("=3"), HasSubstr("write key=value"));
  EXPECT_THAT(bad("layers=3"), AllOf(HasSubstr("'layers'"), HasSubstr("stages")));
  EXPECT_THAT(bad("stages.1.layer=3"), AllOf(HasSubstr("'stages.1.layer'"), HasSubstr("ffn")));
  EXPECT_THAT(bad("stages.2.layers=3"), HasSubstr("the list has 2 entries"));
  EXPECT_THAT(bad("stages.01.layers=3"), HasSubstr("no 'stages.01'"));
  EXPECT_THAT(bad("stages..layers=3"), HasSubstr("no 'stages.'"));
  EXPECT_THAT(bad("vocab_size.0=3"), HasSubstr("has no parts"));
  EXPECT_THAT(bad("stages.1.layers=four"), HasSubstr("must be a whole number, not \"four\""));
  EXPECT_THAT(bad("stages.1.layers="), HasSubstr("must be a whole number, not \"\""));
  EXPECT_THAT(bad("norm_eps=nan"), HasSubstr("must be a number"));
  EXPECT_THAT(bad("activation=tanh"), HasSubstr(R"("relu" or "gelu")"));
  EXPECT_EQ(config, megabyte_config());
}

}  // namespace
}  // namespace megabyte
