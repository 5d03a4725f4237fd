#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/command.h"

namespace megabyte::test {
namespace {

const std::vector<std::string> kQuick = {
    "bench",   "--config",  MEGABYTE_SOURCE_DIR "/tests/fixtures/hourglass/config.json",
    "--batch", "2",         "--seconds",
    "0",       "--threads", "1"};

TEST(BenchCommand, MeasuresBoth) {
  std::vector<std::string> arguments = kQuick;
  arguments.push_back("--json");
  const CommandResult run = run_megabyte(arguments);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_GT(json["train"]["bytes_per_s"].get<double>(), 0);
  EXPECT_GT(json["train"]["peak_memory"].get<double>(), 0);
  EXPECT_GT(json["train"]["host_peak_memory"].get<double>(), 0);
  EXPECT_GT(json["generate"]["bytes_per_s"].get<double>(), 0);
  EXPECT_EQ(json["generate"]["bytes"], 20);
  EXPECT_GT(json["product_flops_per_s"]["f32"].get<double>(), 0);
  EXPECT_GT(json["memory_bytes_per_s"].get<double>(), 0);
}

TEST(BenchCommand, MeasuresOneForPeople) {
  std::vector<std::string> arguments = kQuick;
  arguments.insert(arguments.end(), {"--generate", "--samples", "3", "--bytes", "4"});
  const CommandResult run = run_megabyte(arguments);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("3 samples of 4 bytes"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("training"), std::string::npos) << run.out;
}

TEST(BenchCommand, BadUse) {
  EXPECT_EQ(run_megabyte({"bench", "--samples", "0"}).exit_code, 2);
  EXPECT_EQ(run_megabyte({"bench", "--preset", "nothing"}).exit_code, 1);
  EXPECT_EQ(run_megabyte({"bench", "--batch", "4", "--micro-batch", "3"}).exit_code, 2);
}

}  // namespace
}  // namespace megabyte::test
