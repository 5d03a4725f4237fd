#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/command.h"

namespace megabyte::test {
namespace {

TEST(InfoCommand, CountsAPreset) {
  const CommandResult table = run_megabyte({"info", "tiny"});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_NE(table.out.find("context 1024 bytes"), std::string::npos) << table.out;

  const CommandResult run = run_megabyte(
      {"info", "tiny", "--json", "--dtype", "f32", "--device", "reference", "--batch", "2"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  // 12 D^2 a block, with 4 D for the feed-forward; one global position in 8 bytes.
  const double products = 2.0 * (4 * 12 * 256 * 256 / 8.0 + 2 * 12 * 128 * 128 + 128 * 32);
  const double attention = 4 * 2 * 128 * 256 / 8.0 + 2 * 2 * 8 * 128;
  EXPECT_DOUBLE_EQ(json["flops_per_byte"]["paper"]["forward"].get<double>(), products + attention);
  EXPECT_EQ(json["stages"][1]["serial_steps_per_patch"], 8);
  const auto& memory = json["training_memory"];
  EXPECT_EQ(memory["gradients"].get<int64_t>(), 4 * json["parameters"].get<int64_t>());
  EXPECT_GT(memory["activations"].get<int64_t>(), 0);
}

TEST(InfoCommand, ReadsModelsAndConfigs) {
  const std::string folder = std::string(MEGABYTE_SOURCE_DIR) + "/tests/fixtures/hourglass";
  const CommandResult model = run_megabyte({"info", folder, "--json"});
  const CommandResult config = run_megabyte({"info", folder + "/config.json", "--json"});
  ASSERT_EQ(model.exit_code, 0) << model.err;
  ASSERT_EQ(config.exit_code, 0) << config.err;
  EXPECT_EQ(nlohmann::json::parse(model.out)["parameters"],
            nlohmann::json::parse(config.out)["parameters"]);
  const CommandResult changed =
      run_megabyte({"info", folder, "--json", "--set", "stages.1.layers=3"});
  ASSERT_EQ(changed.exit_code, 0) << changed.err;
  EXPECT_GT(nlohmann::json::parse(changed.out)["parameters"].get<int64_t>(),
            nlohmann::json::parse(model.out)["parameters"].get<int64_t>());
}

TEST(InfoCommand, ListsPresetsAndSweepsLengths) {
  const CommandResult presets = run_megabyte({"info", "--presets", "--json"});
  ASSERT_EQ(presets.exit_code, 0) << presets.err;
  EXPECT_GT(nlohmann::json::parse(presets.out).size(), 5u);
  EXPECT_NE(run_megabyte({"info", "--presets"}).out.find("paper-text"), std::string::npos);

  const CommandResult sweep = run_megabyte({"info", "--sweep", "--json"});
  ASSERT_EQ(sweep.exit_code, 0) << sweep.err;
  const auto json = nlohmann::json::parse(sweep.out);
  EXPECT_EQ(json["lengths"].back(), 1 << 20);
  EXPECT_EQ(json["models"][0]["flops_per_byte"].size(), json["lengths"].size());
  EXPECT_NE(run_megabyte({"info", "--sweep"}).out.find("MEGABYTE 5.8B/604M"), std::string::npos);

  const TemporaryFolder folder;
  const CommandResult plot = run_megabyte({"info", "--sweep", "--plot", folder / "sweep.svg"});
  ASSERT_EQ(plot.exit_code, 0) << plot.err;
  const std::string svg = read_file(folder / "sweep.svg");
  for (const char* part : {"<svg", "linear Transformer 6.4B", "MEGABYTE 170B/3.2B", "</svg>"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
}

TEST(InfoCommand, BadUse) {
  EXPECT_EQ(run_megabyte({"info"}).exit_code, 2);
  EXPECT_EQ(run_megabyte({"info", "tiny", "--sweep"}).exit_code, 2);
  EXPECT_EQ(run_megabyte({"info", "tiny", "--plot", "plot.svg"}).exit_code, 2);
  EXPECT_EQ(run_megabyte({"info", "tiny", "--batch", "0"}).exit_code, 2);
  const CommandResult unknown = run_megabyte({"info", "tinny"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("tiny"), std::string::npos) << unknown.err;
  const CommandResult longer = run_megabyte({"info", "tiny", "--length", "1025"});
  EXPECT_EQ(longer.exit_code, 1);
  EXPECT_NE(longer.err.find("1024"), std::string::npos) << longer.err;
}

}  // namespace
}  // namespace megabyte::test
