// Commands with the exact numbers on the GPU do what they do on the processor.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "support/command.h"
#include "support/device.h"
#include "support/model_folder.h"

namespace megabyte::test {
namespace {

class CudaExactCommand : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
    save_random_model("cross_patch", folder_ / "model");
    text_ = run({"generate", "--device", "exact", "--bytes", "1500", "--temperature", "0.5"});
    write_file(folder_ / "text", text_);
  }
  // With --model; expects success.
  std::string run(std::vector<std::string> words) const {
    words.insert(words.end(), {"--model", folder_ / "model"});
    const CommandResult result = run_megabyte(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  TemporaryFolder folder_;
  std::string text_;
};

TEST_F(CudaExactCommand, ScoresAreTheSame) {
  for (const std::string method : {"sliding", "archive"}) {
    const auto score = [&](const std::string& device) {
      return nlohmann::json::parse(run({"eval", "--data", folder_ / "text", "--method", method,
                                        "--device", device, "--json"}))
          .at("bpb")
          .get<double>();
    };
    EXPECT_NEAR(score("exact-cuda"), score("exact"), 1e-9);
  }
}

TEST_F(CudaExactCommand, GreedyBytesAreTheSame) {
  const auto drawn = [&](const std::string& device) {
    return run({"generate", "--device", device, "--bytes", "300", "--temperature", "0"});
  };
  EXPECT_EQ(drawn("exact-cuda"), drawn("exact"));
}

TEST_F(CudaExactCommand, DumpedLogitsAreTheSame) {
  const auto dumped = [&](const std::string& device) {
    run({"dump", "--device", device, "--input", folder_ / "text", "--batch", "75", "--out",
         folder_ / device});
    return SafetensorsFile(folder_ / device).read_floats("logits");
  };
  EXPECT_EQ(dumped("exact-cuda"), dumped("exact"));
}

// Either side writes the other's archives and reads them; many streams, so that windows of several
// are encoded at once.
TEST_F(CudaExactCommand, ArchivesAreTheSame) {
  std::string text;
  while (text.size() < 100'000) text += text_ + "and";
  for (const std::string& content : {text, text_, std::string(), std::string("x")}) {
    write_file(folder_ / "file", content);
    for (const std::string device : {"cpu", "cuda"})
      run({"compress", folder_ / "file", "-o", folder_ / device, "--device", device, "--force",
           "--verify"});
    const std::string archive = read_file(folder_ / "cpu");
    EXPECT_EQ(read_file(folder_ / "cuda"), archive);
    EXPECT_EQ(run({"decompress", folder_ / "cpu", "-o", "-", "--device", "cuda"}), content);
    EXPECT_EQ(run({"decompress", folder_ / "cuda", "-o", "-", "--device", "cpu"}), content);
    run({"verify", folder_ / "cpu", "--device", "cuda"});
  }
  EXPECT_EQ(run({"decompress", folder_ / "cpu", "-o", "-", "--device", "cuda"}), "x");
}

}  // namespace
}  // namespace megabyte::test
