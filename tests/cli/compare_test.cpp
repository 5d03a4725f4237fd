#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/training.h"

namespace megabyte::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kPlan = R"({
  "title": "Two models",
  "scoring": {"methods": ["basic", "sliding", "strided"], "bytes": 600, "word_perplexity": true},
  "config": {"vocab_size": 256, "activation": "gelu", "stages": [
    {"length": 16, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"},
    {"length": 4, "dim": 16, "layers": 1, "heads": 2, "ffn": 32, "positions": "rotary"}]},
  "training": {"batch": 4, "lr": 0.01, "valid-bytes": 512},
  "entries": [
    {"name": "whole", "label": "MEGABYTE"},
    {"name": "one", "label": "one | stage", "config": {"stages": [
      {"length": 32, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"}]}}]})";

class CompareCommand : public testing::Test {
 protected:
  void SetUp() override { write_file(folder_ / "plan.json", kPlan); }

  std::vector<std::string> arguments(std::vector<std::string> more) const {
    more.insert(more.begin(), {"compare", "--out", folder_ / "out", "--threads", "1"});
    return more;
  }
  CommandResult run(const std::vector<std::string>& more) const {
    return run_megabyte(arguments(more));
  }
  // A comparison from the start.
  CommandResult compare(std::vector<std::string> more) const {
    more.insert(more.begin(), {"--plan", folder_ / "plan.json", "--data", folder_ / "data.txt"});
    return run(more);
  }
  void expect_error(const CommandResult& result, int code, const std::string& message) const {
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(message));
  }
  nlohmann::json table() const {
    return nlohmann::json::parse(read_file(folder_ / "out/comparison.json"));
  }

  TrainFolder folder_;
};

TEST_F(CompareCommand, SameFlopsForEachAndOneTable) {
  write_file(folder_ / "held-out", read_file(folder_ / "data.txt").substr(300, 600));
  const CommandResult result =
      compare({"--flops", "4e8", "--json", "--dtype", "f32", "--valid", folder_ / "held-out"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json out = nlohmann::json::parse(result.out);
  EXPECT_EQ(out, table());
  EXPECT_EQ(out.at("budget").at("flops"), 4e8);
  ASSERT_EQ(out.at("entries").size(), 2u);
  for (const nlohmann::json& entry : out.at("entries")) {
    const double flops = entry.at("flops");
    EXPECT_NEAR(flops, 4e8, entry.at("training_flops_per_byte").get<double>() * 4 * 64);
    EXPECT_EQ(entry.at("dtype"), "f32");
    EXPECT_EQ(entry.at("curve").back().at("bytes"), entry.at("bytes"));
    EXPECT_GE(entry.at("curve").size(), 5u);
    for (const nlohmann::json& score : entry.at("scores")) {
      EXPECT_EQ(score.at("bytes"), 600);
      EXPECT_GT(score.at("forward_flops_per_byte"), 0);
      EXPECT_GT(score.at("word_perplexity"), 1);
    }
  }
  const nlohmann::json& whole = out.at("entries").at(0);
  EXPECT_EQ(whole.at("scores").size(), 3u);
  EXPECT_EQ(whole.at("scores").at(2).at("by_position").size(), 4u);
  EXPECT_EQ(out.at("entries").at(1).at("scores").size(), 2u);  // no patches to stride over

  const std::string markdown = read_file(folder_ / "out/comparison.md");
  for (const char* part : {"# Two models", "| MEGABYTE |", "one \\| stage", "400 MFLOP",
                           "comparison-bytes.svg", "comparison-flops.svg", "comparison-time.svg"})
    EXPECT_THAT(markdown, HasSubstr(part));
  for (const char* plot : {"bytes", "flops", "time"})
    EXPECT_THAT(read_file(folder_ / "out/comparison-" + plot + ".svg"), HasSubstr("MEGABYTE"));

  // The scores are those of `megabyte eval`.
  const CommandResult eval =
      run_megabyte({"eval", "--model", folder_ / "out/whole", "--data", folder_ / "held-out",
                    "--json", "--threads", "1", "--method", "strided"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_NEAR(nlohmann::json::parse(eval.out).at("bpb").get<double>(),
              whole.at("scores").at(2).at("bpb").get<double>(), 1e-6);
}

TEST_F(CompareCommand, InterruptedComparisonsGoOn) {
  const std::vector<std::string> budget{"--bytes", "4000", "--quiet"};
  ASSERT_EQ(compare({"--bytes", "4000", "--quiet", "--only", "one"}).exit_code, 0);
  EXPECT_TRUE(table().at("entries").at(0).at("unfinished"));
  const std::string one = read_file(folder_ / "out/one/result.json");
  const auto written = fs::last_write_time(folder_ / "out/one/training.safetensors");
  expect_error(compare(budget), 1, "--resume continues it");
  ASSERT_EQ(run({"--resume", "--quiet"}).exit_code, 0);
  EXPECT_EQ(read_file(folder_ / "out/one/result.json"), one);
  EXPECT_EQ(fs::last_write_time(folder_ / "out/one/training.safetensors"), written);
  EXPECT_EQ(table().at("entries").at(0).at("steps"), 16);

  // Trained, but not scored yet: only the scores are made again.
  fs::remove(folder_ / "out/one/result.json");
  ASSERT_EQ(run({"--resume", "--quiet"}).exit_code, 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(folder_ / "out/one/result.json"))
                .at("scores")
                .at(0)
                .at("bpb"),
            nlohmann::json::parse(one).at("scores").at(0).at("bpb"));

  // Another budget, or another plan under the same name, is another comparison.
  expect_error(run({"--resume", "--bytes", "8000"}), 1, "entry 'whole': its run has bytes 4000");
  std::string other = kPlan;
  other.replace(other.find("0.01"), 4, "0.02");
  write_file(folder_ / "plan.json", other);
  expect_error(run({"--resume", "--plan", folder_ / "plan.json"}), 1, "lr 0.01");
  // It may have more entries.
  other = kPlan;
  other.insert(other.rfind("]}"), R"(, {"name": "more", "set": ["stages.1.layers=0"]})");
  write_file(folder_ / "plan.json", other);
  ASSERT_EQ(run({"--resume", "--quiet", "--plan", folder_ / "plan.json"}).exit_code, 0);
  EXPECT_EQ(table().at("entries").size(), 3u);
  ASSERT_EQ(compare({"--bytes", "256", "--quiet", "--overwrite"}).exit_code, 0);
  EXPECT_EQ(table().at("entries").at(2).at("steps"), 1);
}

TEST_F(CompareCommand, ASignalStopsAndAnEntryGoesOnFromItsCheckpoint) {
  RunningMegabyte running(arguments({"--plan", folder_ / "plan.json", "--data",
                                     folder_ / "data.txt", "--minutes", "10", "--quiet"}));
  while (running.running() && checkpoint_step(folder_ / "out/whole") < 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  running.send(SIGTERM);
  EXPECT_EQ(running.wait().exit_code, 0);
  const int64_t step = checkpoint_step(folder_ / "out/whole");
  EXPECT_GE(step, 1);
  EXPECT_FALSE(fs::exists(folder_ / "out/one"));
  RunningMegabyte again(arguments({"--resume", "--quiet"}));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  again.send(SIGTERM);
  again.wait();
  EXPECT_GE(checkpoint_step(folder_ / "out/whole"), step);
}

TEST_F(CompareCommand, TimeIsTheTimeOfStepsAndRatesFallToItsEnd) {
  ASSERT_EQ(compare({"--minutes", "0.005", "--quiet"}).exit_code, 0);
  const nlohmann::json comparison = table();
  for (const nlohmann::json& entry : comparison.at("entries")) {
    EXPECT_GE(entry.at("seconds"), 0.3);
    EXPECT_LT(entry.at("seconds"), 5);
    const std::string name = entry.at("name");
    const std::vector<std::string> lines = lines_of(folder_ / "out/" + name + "/metrics.jsonl");
    EXPECT_LT(nlohmann::json::parse(lines.back()).at("lr"), 0.005);
  }
}

TEST_F(CompareCommand, AnEntryThatFailsLeavesTheOthers) {
  std::string plan = kPlan;
  plan.replace(plan.find("\"label\": \"MEGABYTE\""), 19,
               "\"training\": {\"lr\": 1e30, \"clip\": 0, \"warmup\": 0}");
  write_file(folder_ / "plan.json", plan);
  const CommandResult result = compare({"--bytes", "8000", "--quiet", "--dtype", "f32"});
  expect_error(result, 1, "1 of 2 entries failed (whole)");
  EXPECT_THAT(result.err, HasSubstr("not finite"));
  EXPECT_THAT(table().at("entries").at(0).at("error").get<std::string>(), HasSubstr("not finite"));
  EXPECT_TRUE(table().at("entries").at(1).contains("scores"));
  EXPECT_THAT(read_file(folder_ / "out/comparison.md"), HasSubstr("failed: "));
}

TEST_F(CompareCommand, SetsOfDataHaveNames) {
  std::string plan = kPlan;
  plan.insert(1, R"("data": ["left", "right"], )");
  plan.replace(plan.find("\"name\": \"whole\""), 15, R"("name": "whole", "data": "left")");
  plan.replace(plan.find("\"name\": \"one\""), 13, R"("name": "one", "data": "right")");
  write_file(folder_ / "plan.json", plan);
  const std::string file = folder_ / "data.txt";
  const auto given = [&](const std::vector<std::string>& data) {
    std::vector<std::string> all{"--plan", folder_ / "plan.json", "--bytes", "512", "--quiet"};
    all.push_back("--data");
    all.insert(all.end(), data.begin(), data.end());
    return run(all);
  };
  expect_error(given({file}), 2, "left and right: write left=PATH");
  expect_error(given({"left=" + file}), 2, "--data has no right");
  write_file(folder_ / "short.txt", read_file(file).substr(1000));
  expect_error(given({"left=" + file, "right=" + folder_ / "short.txt"}), 1, "would not compare");
  EXPECT_EQ(given({"left=" + file, "right=" + file}).exit_code, 0);
}

TEST_F(CompareCommand, BadUsageSaysWhatToDo) {
  expect_error(run({}), 2, "--plan is missing");
  expect_error(run_megabyte({"compare", "--plan", "text-small"}), 2, "--out is missing");
  expect_error(run({"--plan", folder_ / "plan.json"}), 2, "--data is missing");
  expect_error(compare({}), 2, "--minutes, --flops or --bytes");
  expect_error(compare({"--minutes", "1", "--bytes", "5"}), 2, "excludes");
  expect_error(compare({"--minutes", "-1"}), 2, "--minutes");
  expect_error(compare({"--bytes", "100", "--only", "other"}), 2, "the plan has whole, one");
  expect_error(run({"--resume"}), 1, "no comparison to resume");
  expect_error(run({"--plan", "no-plan", "--data", "x", "--bytes", "1"}), 1, "text-small");
  write_file(folder_ / "small", "too little");
  expect_error(run({"--plan", folder_ / "plan.json", "--data", folder_ / "small", "--bytes", "1"}),
               1, "entry 'whole'");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  const CommandResult plans = run_megabyte({"compare", "--plans", "--json"});
  EXPECT_EQ(nlohmann::json::parse(plans.out).at(0).at("name"), "ablations-small");
}

}  // namespace
}  // namespace megabyte::test
