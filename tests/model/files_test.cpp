#include "model/files.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "io/safetensors.h"
#include "support/command.h"
#include "support/configs.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class FilesTest : public testing::Test {
 protected:
  FilesTest() {
    for (const test::NamedConfig& c : test::small_configs())
      if (c.name == "hourglass_three_stages") config_ = c.config;
    model_ = std::make_unique<Hierarchy>(config_, *backend_, DType::f32, false);
    model_->parameters().initialize(3, 0.5);
  }

  std::vector<float> values(const Hierarchy& model, const std::string& name) const {
    const Tensor tensor = model.parameters().master(name);
    std::vector<float> out(static_cast<size_t>(tensor.size()));
    backend_->to_host(out.data(), tensor);
    return out;
  }

  // Writes the model's file again with other tensors: `change` may edit name, type and shape, and
  // the values are all `value`.
  struct Declared {
    std::string name;
    DType dtype;
    Shape shape;
  };
  void rewrite(const std::function<void(std::vector<Declared>&)>& change, float value = 0) const {
    std::vector<Declared> tensors;
    for (const ParameterSpec& spec : model_->parameters().specs())
      tensors.push_back({spec.name, DType::f32, spec.shape});
    change(tensors);
    SafetensorsWriter writer(folder_ / kModelFile);
    for (const Declared& t : tensors) writer.declare(t.name, t.dtype, t.shape);
    writer.write([&](const std::string& name, std::byte* to) {
      for (const Declared& t : tensors)
        if (t.name == name && t.dtype == DType::f32)
          for (int64_t i = 0; i < t.shape.size(); ++i)
            std::memcpy(to + static_cast<size_t>(i) * sizeof(float), &value, sizeof(float));
    });
  }

  std::string load_complaint() const {
    return test::error_of([&] { load_model(folder_.path(), *backend_, DType::f32, false); });
  }

  test::TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_ = make_backend("reference");
  Config config_;
  std::unique_ptr<Hierarchy> model_;
};

TEST_F(FilesTest, ModelsComeBackToTheBit) {
  save_model(folder_.path(), *model_, DType::f32, {{"step", "7"}});
  const auto again = load_model(folder_.path(), *backend_, DType::f32, true);
  EXPECT_EQ(again->config(), config_);
  for (const ParameterSpec& spec : model_->parameters().specs())
    EXPECT_EQ(values(*again, spec.name), values(*model_, spec.name)) << spec.name;
  const SafetensorsFile file(folder_ / kModelFile);
  EXPECT_EQ(file.metadata().at("step"), "7");
  EXPECT_EQ(file.metadata().at("format"), "megabyte");
}

TEST_F(FilesTest, QuantisedModelsComeBackTheSameHoweverOften) {
  save_quantised_model(folder_.path(), *model_, {{"step", "7"}});
  const std::string once = test::read_file(folder_ / kModelFile);
  const auto again = load_model(folder_.path(), *backend_, DType::f32, true);
  save_quantised_model(folder_.path(), *again, {{"step", "7"}});
  EXPECT_EQ(test::read_file(folder_ / kModelFile), once);
  for (const ParameterSpec& spec : model_->parameters().specs()) {
    const std::vector<float> before = values(*model_, spec.name), after = values(*again, spec.name);
    float largest = 0;
    for (const float x : before) largest = std::max(largest, std::abs(x));
    const float half = spec.decayed() ? largest / 253 : 0;  // of a step
    for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(after[i], before[i], half) << spec.name;
  }
}

TEST_F(FilesTest, QuantisedTensorsNeedTheirScales) {
  save_model(folder_.path(), *model_, DType::f32, {});
  const std::string name = "stages.1.blocks.0.ffn.up.weight", scales = name + ".scale";
  const auto in_bytes = [&](std::vector<Declared>& tensors, const std::string& which) {
    for (Declared& t : tensors)
      if (t.name == which) t.dtype = DType::i8;
  };
  rewrite([&](auto& tensors) { in_bytes(tensors, name); });
  EXPECT_THAT(load_complaint(), HasSubstr("its scales " + scales + " are missing"));
  rewrite([&](auto& tensors) {
    in_bytes(tensors, name);
    tensors.push_back({scales, DType::f32, {3}});
  });
  EXPECT_THAT(load_complaint(), HasSubstr(scales + " must be F32 of shape (32)"));
  rewrite([&](auto& tensors) { tensors.push_back({scales, DType::f32, {32}}); });
  EXPECT_THAT(load_complaint(), HasSubstr(scales + " is not part of the model"));
  rewrite([&](auto& tensors) { in_bytes(tensors, "stages.1.pad"); });
  EXPECT_THAT(load_complaint(), HasSubstr("stages.1.pad is stored as i8"));
}

TEST_F(FilesTest, HalfPrecisionRoundsOnce) {
  save_model(folder_.path(), *model_, DType::bf16, {});
  const auto again = load_model(folder_.path(), *backend_, DType::f32, false);
  for (const ParameterSpec& spec : model_->parameters().specs()) {
    std::vector<float> rounded = values(*model_, spec.name);
    for (float& x : rounded) x = static_cast<float>(bf16(x));
    EXPECT_EQ(values(*again, spec.name), rounded) << spec.name;
  }
}

TEST_F(FilesTest, DoubleMasters) {
  save_model(folder_.path(), *model_, DType::f32, {});
  const auto wide = load_model(folder_.path(), *backend_, DType::f64, false);
  test::TemporaryFolder other;
  save_model(other.path(), *wide, DType::f32, {});
  EXPECT_EQ(test::read_file(other / kModelFile), test::read_file(folder_ / kModelFile));
}

TEST_F(FilesTest, NoModelThere) {
  EXPECT_THAT(load_complaint(), AllOf(HasSubstr("holds no model"), HasSubstr("config.json"),
                                      HasSubstr("megabyte train")));
  test::write_file(folder_ / kConfigFile, to_json(config_));
  EXPECT_THAT(load_complaint(), HasSubstr("model.safetensors is missing"));
}

TEST_F(FilesTest, TensorsThatDoNotFit) {
  test::write_file(folder_ / kConfigFile, to_json(config_));
  const std::string name = "stages.1.pad";
  const auto edit = [&](const std::function<void(Declared&)>& change) {
    rewrite([&](std::vector<Declared>& tensors) {
      for (Declared& t : tensors)
        if (t.name == name) change(t);
    });
    const std::string message = load_complaint();
    EXPECT_THAT(message, HasSubstr(folder_ / kModelFile));
    return message;
  };
  EXPECT_THAT(edit([](Declared& t) { t.name = "stages.1.padding"; }),
              HasSubstr("tensor stages.1.padding is not part of the model"));
  EXPECT_THAT(edit([](Declared& t) { t.shape = {23}; }),
              HasSubstr("tensor stages.1.pad has shape (23), but the config needs (24)"));
  EXPECT_THAT(edit([](Declared& t) { t.dtype = DType::u8; }),
              HasSubstr("tensor stages.1.pad is stored as u8"));
  rewrite([](std::vector<Declared>& tensors) { tensors.pop_back(); });
  EXPECT_THAT(load_complaint(), HasSubstr("tensor head.weight of the model is missing"));
}

TEST_F(FilesTest, ValuesThatAreNotNumbers) {
  test::write_file(folder_ / kConfigFile, to_json(config_));
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF}) {
    rewrite([](std::vector<Declared>&) {}, value);
    EXPECT_THAT(load_complaint(), AllOf(HasSubstr("not finite"), HasSubstr("tensor ")));
  }
}

TEST_F(FilesTest, DamagedFile) {
  save_model(folder_.path(), *model_, DType::f32, {});
  fs::resize_file(folder_ / kModelFile, fs::file_size(folder_ / kModelFile) - 1);
  EXPECT_THAT(load_complaint(), AllOf(HasSubstr(kModelFile), HasSubstr("cut short")));
}

TEST_F(FilesTest, CommandsSayItInOneLine) {
  save_model(folder_.path(), *model_, DType::f32, {});
  fs::resize_file(folder_ / kModelFile, 1000);
  test::write_file(folder_ / "input", std::string(48, 'a'));
  const std::string out = folder_ / "out.safetensors";
  const test::CommandResult run = test::run_megabyte(
      {"dump", "--model", folder_.path(), "--input", folder_ / "input", "--out", out});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, AllOf(HasSubstr(kModelFile), HasSubstr("cut short")));
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1);
  EXPECT_FALSE(fs::exists(out));
}

}  // namespace
}  // namespace megabyte
