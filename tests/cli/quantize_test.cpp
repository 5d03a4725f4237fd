#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "support/command.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

using test::CommandResult;
using test::run_megabyte;
using test::TemporaryFolder;
using test::write_file;

class QuantizeCommand : public testing::Test {
 protected:
  void SetUp() override {
    test::save_random_model("hourglass_three_stages", folder_ / "model");
    std::string text;
    for (int i = 0; i < 300; ++i) text += static_cast<char>(i * i * 7 + i / 3);
    write_file(folder_ / "data", text);
  }
  CommandResult quantize(std::vector<std::string> more = {}, const std::string& from = "model",
                         const std::string& to = "small") const {
    std::vector<std::string> arguments{"quantize", "--model", folder_ / from, "--out",
                                       folder_ / to};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_megabyte(arguments);
  }
  double bits_per_byte(const std::string& model, const std::string& device,
                       const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"eval",           "--model",  folder_ / model, "--data",
                                       folder_ / "data", "--device", device,          "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = run_megabyte(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out).at("bpb");
  }

  TemporaryFolder folder_;
};

TEST_F(QuantizeCommand, TheExactBackendMakesTheSameOfBoth) {
  const CommandResult result = quantize({"--data", folder_ / "data", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json report = nlohmann::json::parse(result.out);
  EXPECT_LT(report.at("file_bytes"), report.at("file_bytes_before"));
  const nlohmann::json loss = report.at("loss");
  EXPECT_EQ(loss.at("bytes"), 300);
  const double exact = bits_per_byte("small", "exact");
  EXPECT_EQ(exact, bits_per_byte("model", "exact"));
  EXPECT_EQ(exact, bits_per_byte("small", "exact", {"--batch", "3", "--threads", "1"}));
  EXPECT_EQ(exact, loss.at("bpb_int8"));
  EXPECT_NEAR(loss.at("bpb_float32"), bits_per_byte("model", "reference"), 1e-4);
  EXPECT_NEAR(loss.at("percent"), 100 * (exact / bits_per_byte("model", "reference") - 1), 0.01);
  // Its matrices are what other backends multiply, in float.
  EXPECT_NEAR(exact, bits_per_byte("small", "reference"), 0.2);
  EXPECT_NE(bits_per_byte("model", "reference"), bits_per_byte("small", "reference"));
}

TEST_F(QuantizeCommand, MatricesAreBytesWithAScaleForEachRow) {
  ASSERT_EQ(quantize().exit_code, 0);
  const SafetensorsFile before(folder_ / "model/model.safetensors"),
      after(folder_ / "small/model.safetensors");
  EXPECT_EQ(test::read_file(folder_ / "small/config.json"),
            test::read_file(folder_ / "model/config.json"));
  EXPECT_EQ(after.metadata(), before.metadata());
  int matrices = 0;
  for (const auto& [name, entry] : before.tensors()) {
    const std::vector<float> old = before.read_floats(name), now = after.read_floats(name);
    if (after.entry(name).dtype != DType::i8) {
      EXPECT_EQ(now, old) << name;
      continue;
    }
    ++matrices;
    const std::vector<float> scales = after.read_floats(name + ".scale");
    ASSERT_EQ(std::ssize(scales), entry.shape[0]);
    const size_t count = old.size() / scales.size();
    for (size_t i = 0; i < old.size(); ++i) {
      ASSERT_LE(std::abs(now[i]), 127);
      ASSERT_NEAR(now[i] * scales[i / count], old[i], 0.5001f * scales[i / count]) << name;
    }
  }
  EXPECT_GT(matrices, 10);
}

TEST_F(QuantizeCommand, Complaints) {
  ASSERT_EQ(quantize().exit_code, 0);
  const auto complaint = [](const CommandResult& result) {
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  EXPECT_NE(complaint(quantize()).find("holds a model: name another --out"), std::string::npos);
  EXPECT_EQ(quantize({"--overwrite"}).exit_code, 0);
  EXPECT_NE(complaint(quantize({}, "small", "again")).find("is quantised already"),
            std::string::npos);
  EXPECT_NE(complaint(quantize({}, "none", "again")).find("holds no model"), std::string::npos);
  EXPECT_NE(complaint(quantize({"--data", folder_ / "nothing"}, "model", "again")).find("nothing"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "again"));
}

}  // namespace
}  // namespace megabyte
