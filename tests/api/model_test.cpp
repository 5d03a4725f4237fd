#include <gtest/gtest.h>

#include "megabyte/megabyte.h"
#include "support/command.h"

namespace megabyte {
namespace {

const std::string kModel = std::string(MEGABYTE_SOURCE_DIR) + "/tests/fixtures/paper";

std::vector<std::uint8_t> some_bytes() {
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < 50; ++i) bytes.push_back(static_cast<std::uint8_t>(i * 37));
  return bytes;
}

TEST(Model, ScoresAsTheCommandDoes) {
  Model model(kModel, {.device = "reference"});
  EXPECT_EQ(model.context(), 16);
  const std::vector<std::uint8_t> bytes = some_bytes();
  test::TemporaryFolder folder;
  test::write_file(folder / "data", {bytes.begin(), bytes.end()});
  for (const std::string method : {"basic", "sliding", "strided", "sliding-strided"}) {
    const auto run = test::run_megabyte({"eval", "--model", kModel, "--data", folder / "data",
                                         "--method", method, "--device", "reference", "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const double bpb = model.bits_per_byte(bytes, method);
    EXPECT_GT(bpb, 0);
    const auto at = run.out.find("\"bpb\":");
    ASSERT_NE(at, std::string::npos);
    EXPECT_NEAR(std::stod(run.out.substr(at + 6)), bpb, 1e-9) << method;
  }
}

TEST(Model, GeneratesAsTheCommandDoes) {
  Model model(kModel, {.device = "reference"});
  const std::vector<std::uint8_t> prompt{'a', 0, 'b'};
  test::TemporaryFolder folder;
  test::write_file(folder / "prompt", {prompt.begin(), prompt.end()});
  const auto run =
      test::run_megabyte({"generate", "--model", kModel, "--prompt-file", folder / "prompt",
                          "--bytes", "40", "--seed", "3", "--device", "reference"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::vector<std::uint8_t> bytes = model.generate(prompt, {.bytes = 40, .seed = 3});
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), run.out);
  EXPECT_NE(bytes, model.generate(prompt, {.bytes = 40, .seed = 4}));
}

TEST(Model, DocumentsEndAsInTheCommands) {
  const std::string folder =
      std::string(MEGABYTE_SOURCE_DIR) + "/tests/fixtures/untied-vocabulary-257";
  Model model(folder, {.device = "reference"});
  const std::vector<std::uint8_t> bytes = some_bytes();
  test::TemporaryFolder data;
  test::write_file(data / "data", {bytes.begin(), bytes.end()});
  const auto eval = test::run_megabyte(
      {"eval", "--model", folder, "--data", data / "data", "--device", "reference", "--json"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_NEAR(std::stod(eval.out.substr(eval.out.find("\"bpb\":") + 6)), model.bits_per_byte(bytes),
              1e-9);
  const auto drawn = test::run_megabyte({"generate", "--model", folder, "--bytes", "2000",
                                         "--temperature", "1000", "--device", "reference"});
  const auto own = model.generate({}, {.bytes = 2000, .temperature = 1000});
  EXPECT_EQ(std::string(own.begin(), own.end()), drawn.out);
  EXPECT_LT(own.size(), 2000u);  // one in 257 symbols ends
}

TEST(Model, StopsWhenTold) {
  Model model(kModel);
  int count = 0;
  model.generate({}, {.bytes = 40}, [&](std::uint8_t) { return ++count < 5; });
  EXPECT_EQ(count, 5);
}

TEST(Model, FailuresAreExceptionsThatSayWhat) {
  EXPECT_THROW(Model("/nonexistent"), std::runtime_error);
  EXPECT_THROW(Model(kModel, {.device = "abacus"}), std::runtime_error);
  EXPECT_THROW(Model(kModel, {.dtype = "f12"}), std::runtime_error);
  Model model(kModel);
  EXPECT_THROW(model.bits_per_byte({}), std::runtime_error);
  EXPECT_THROW(model.bits_per_byte(some_bytes(), "guess"), std::runtime_error);
}

}  // namespace
}  // namespace megabyte
