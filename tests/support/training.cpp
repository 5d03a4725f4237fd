#include "support/training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/random.h"
#include "io/safetensors.h"

namespace megabyte::test {

TrainFolder::TrainFolder() {
  const std::vector<std::string> words{"patch", "byte", "global", "local", "stage", "model"};
  Random random(1, 0);
  std::string text;
  while (text.size() < 20000) text += words[random.below(words.size())] + " ";
  write_file(folder_ / "data.txt", text);
  write_file(folder_ / "config.json", R"({"vocab_size": 256, "activation": "gelu", "stages": [
    {"length": 16, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"},
    {"length": 4, "dim": 16, "layers": 1, "heads": 2, "ffn": 32, "positions": "rotary"}]})");
}

std::vector<std::string> TrainFolder::arguments(const std::string& out,
                                                const std::vector<std::string>& more) const {
  std::vector<std::string> all{
      "train", "--data",     folder_ / "data.txt", "--config", folder_ / "config.json",
      "--out", folder_ / out};
  const auto unless_given = [&](const char* option, const char* value) {
    if (std::ranges::find(more, option) == more.end()) all.insert(all.end(), {option, value});
  };
  unless_given("--batch", "4");
  unless_given("--threads", "1");  // so little work is slower on more
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

CommandResult TrainFolder::train(const std::string& out,
                                 const std::vector<std::string>& more) const {
  return run_megabyte(arguments(out, more));
}

std::vector<std::string> lines_of(const std::string& file) {
  std::istringstream in(read_file(file));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

namespace {

nlohmann::json state_of(const SafetensorsFile& training) {
  auto state = nlohmann::json::parse(training.metadata().at("state"));
  state.erase("elapsed");
  return state;
}

std::vector<nlohmann::json> metrics_of(const std::string& model) {
  std::vector<nlohmann::json> metrics;
  for (const std::string& line : lines_of(model + "/metrics.jsonl")) {
    metrics.push_back(nlohmann::json::parse(line));
    for (const char* time : {"seconds", "bytes_per_s"}) metrics.back().erase(time);
  }
  return metrics;
}

}  // namespace

void expect_same_tensors(const std::string& file, const std::string& other_file) {
  const SafetensorsFile a(file), b(other_file);
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, entry] : a.tensors())
    EXPECT_TRUE(std::ranges::equal(a.bytes(name), b.bytes(name))) << file << ": " << name;
}

int64_t checkpoint_step(const std::string& model) {
  const std::string file = model + "/training.safetensors";
  if (!std::filesystem::exists(file)) return -1;
  return state_of(SafetensorsFile(file)).at("step");
}

void expect_same_run(const std::string& model, const std::string& other) {
  EXPECT_EQ(state_of(SafetensorsFile(model + "/training.safetensors")),
            state_of(SafetensorsFile(other + "/training.safetensors")));
  expect_same_tensors(model + "/training.safetensors", other + "/training.safetensors");
  expect_same_tensors(model + "/model.safetensors", other + "/model.safetensors");
  EXPECT_EQ(read_file(model + "/config.json"), read_file(other + "/config.json"));
  EXPECT_EQ(metrics_of(model), metrics_of(other));
}

}  // namespace megabyte::test
