// megabyte train from the command line: what it writes, and what it says to bad input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "support/training.h"

namespace megabyte::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

TEST(TrainCommand, WritesAModelThatLearned) {
  const TrainFolder folder;
  const CommandResult result = folder.train("model", {"--steps", "60", "--valid-every", "25"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("bits per byte"));
  EXPECT_THAT(result.out, HasSubstr("megabyte generate --model " + (folder / "model")));
  EXPECT_THAT(result.err, HasSubstr("step 60/60"));

  const std::vector<std::string> lines = lines_of(folder / "model/metrics.jsonl");
  ASSERT_EQ(lines.size(), 60u);
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto json = nlohmann::json::parse(lines[i]);
    EXPECT_EQ(json.at("step"), i + 1);
    EXPECT_EQ(json.at("bytes"), (i + 1) * 4 * 64);
    EXPECT_NEAR(json.at("bpb"), json.at("loss").get<double>() / std::log(2.0), 1e-9);
    for (const char* key : {"lr", "grad_norm", "bytes_per_s"}) EXPECT_GT(json.at(key), 0) << key;
    EXPECT_EQ(json.contains("valid_bpb"), i + 1 == 25 || i + 1 == 50 || i + 1 == 60);
  }
  const auto first = nlohmann::json::parse(lines.front()),
             last = nlohmann::json::parse(lines.back());
  EXPECT_LT(last.at("valid_bpb"), 0.8 * first.at("bpb").get<double>());

  const SafetensorsFile training(folder / "model/training.safetensors"),
      model(folder / "model/model.safetensors");
  EXPECT_EQ(training.tensors().size(), 3 * model.tensors().size());
  EXPECT_EQ(model.metadata().at("step"), "60");
}

TEST(TrainCommand, JsonLines) {
  const TrainFolder folder;
  const CommandResult result =
      folder.train("model", {"--steps", "10", "--log-every", "4", "--json", "--accumulate", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const std::string metrics = read_file(folder / "model/metrics.jsonl");
  EXPECT_EQ(result.out.substr(0, metrics.size()), metrics);  // steps 4, 8 and 10
  EXPECT_EQ(std::ranges::count(metrics, '\n'), 3);
  const auto summary = nlohmann::json::parse(result.out.substr(metrics.size()));
  EXPECT_EQ(summary.at("finished"), true);
  EXPECT_EQ(summary.at("saved_step"), 10);
  EXPECT_EQ(summary.at("bytes"), 10 * 2 * 4 * 64);
  EXPECT_TRUE(summary.contains("valid_bpb"));
}

TEST(TrainCommand, QuietSaysNothing) {
  const TrainFolder folder;
  const CommandResult result = folder.train("model", {"--steps", "3", "--quiet"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out + result.err, "");
}

TEST(TrainCommand, BudgetsOfBytesAndTime) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("bytes", {"--bytes", "1kB"}).exit_code, 0);
  EXPECT_EQ(checkpoint_step(folder / "bytes"), 4);  // of 256 bytes
  const CommandResult timed = folder.train("time", {"--minutes", "0.005", "--json"});
  ASSERT_EQ(timed.exit_code, 0) << timed.err;
  const std::string last = timed.out.substr(timed.out.rfind("\n", timed.out.size() - 2) + 1);
  EXPECT_GE(nlohmann::json::parse(last).at("seconds"), 0.3);
  EXPECT_GT(checkpoint_step(folder / "time"), 0);
}

TEST(TrainCommand, SetChangesTheModel) {
  const TrainFolder folder;
  ASSERT_EQ(folder
                .train("model", {"--steps", "1", "--set", "stages.1.layers=3", "--set",
                                 "activation=relu", "--save-dtype", "bf16"})
                .exit_code,
            0);
  const SafetensorsFile model(folder / "model/model.safetensors");
  EXPECT_TRUE(model.contains("stages.1.blocks.2.norm1.weight"));
  EXPECT_EQ(model.entry("stages.1.pad").dtype, DType::bf16);
  EXPECT_THAT(read_file(folder / "model/config.json"), HasSubstr("relu"));
}

// A step has as many bytes whatever the windows; the context is the longest window there is.
TEST(TrainCommand, ShortWindowsFirst) {
  const TrainFolder folder;
  const auto train = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> all{"--steps", "6", "--valid-every", "0"};
    all.insert(all.end(), more.begin(), more.end());
    const CommandResult result = folder.train(out, all);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<double> losses;
    for (const std::string& line : lines_of(folder / (out + "/metrics.jsonl"))) {
      const auto json = nlohmann::json::parse(line);
      losses.push_back(json.at("loss"));
      EXPECT_EQ(json.at("bytes"), static_cast<int64_t>(losses.size()) * 4 * 64);
    }
    return losses;
  };
  const std::vector<double> plain = train("plain", {});
  ASSERT_EQ(plain.size(), 6u);
  EXPECT_EQ(train("longest", {"--short-length", "1000"}), plain);
  const std::vector<double> half = train("half", {"--short-length", "16", "--short-part", "0.5"}),
                            most = train("most", {"--short-length", "16"});
  EXPECT_NE(half[0], plain[0]);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(half[i], most[i]);
  EXPECT_NE(half[3], most[3]);
}

TEST(TrainCommand, APresetOfAnotherContextTrains) {
  const TrainFolder folder;
  const CommandResult result =
      run_megabyte({"train", "--data", folder / "data.txt", "--out", folder / "changed", "--steps",
                    "1", "--preset", "quickstart", "--set", "stages.0.length=17", "stages.0.dim=32",
                    "stages.0.ffn=32"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST(TrainCommand, FromBeginsWithAModel) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "3", "--seed", "5"}).exit_code, 0);
  const auto from_model = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"train",          "--data",     folder / "data.txt",
                                       "--out",          folder / out, "--from",
                                       folder / "model", "--steps",    "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_megabyte(arguments);
  };
  ASSERT_EQ(from_model("same", {"--lr", "1e-30"}).exit_code, 0);
  expect_same_tensors(folder / "same/model.safetensors", folder / "model/model.safetensors");
  EXPECT_EQ(read_file(folder / "same/config.json"), read_file(folder / "model/config.json"));

  const CommandResult other = from_model("other", {"--set", "stages.1.layers=3"});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.err, HasSubstr("of the model is missing"));
  EXPECT_FALSE(fs::exists(folder / "other"));
  const CommandResult scales = from_model("other", {"--init-stddev", "0.1"});
  EXPECT_EQ(scales.exit_code, 2);
  EXPECT_THAT(scales.err, HasSubstr("--from"));
}

TEST(TrainCommand, AModelInTheWayIsKept) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "2"}).exit_code, 0);
  const std::string before = read_file(folder / "model/training.safetensors");
  const CommandResult refused = folder.train("model", {"--steps", "3"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--overwrite"));
  EXPECT_THAT(refused.err, HasSubstr("--resume"));
  // Nor does --overwrite touch it when something else is wrong.
  EXPECT_EQ(
      folder.train("model", {"--steps", "3", "--overwrite", "--set", "stages.0.heads=5"}).exit_code,
      1);
  EXPECT_EQ(read_file(folder / "model/training.safetensors"), before);
  ASSERT_EQ(folder.train("model", {"--steps", "3", "--overwrite", "--seed", "2"}).exit_code, 0);
  ASSERT_EQ(folder.train("fresh", {"--steps", "3", "--seed", "2"}).exit_code, 0);
  expect_same_run(folder / "model", folder / "fresh");
}

TEST(TrainCommand, StopsWithAdviceWhenNothingIsFinite) {
  const TrainFolder folder;
  const CommandResult result =
      folder.train("model", {"--steps", "50", "--lr", "1e30", "--clip", "0", "--warmup", "0"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("step is skipped"));
  EXPECT_THAT(result.err, HasSubstr("5 steps in a row"));
  EXPECT_THAT(result.err, HasSubstr("lower --lr"));
  EXPECT_EQ(checkpoint_step(folder / "model"), 0);
  // The advice works.
  const CommandResult resumed = folder.train("model", {"--resume", "--lr", "1e-3"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
}

struct BadUse {
  std::vector<std::string> options;
  int exit_code;
  std::string message;
};

TEST(TrainCommand, BadUse) {
  const TrainFolder folder;
  write_file(folder / "empty.txt", "");
  write_file(folder / "short.txt", "too short");
  write_file(folder / "broken.json", "{");
  write_file(folder / "unknown.json", R"({"stagez": []})");
  fs::create_directory(folder / "nothing");
  const std::string data = folder / "data.txt", config = folder / "config.json";
  const std::vector<BadUse> cases{
      {{"--data", folder / "missing.txt"}, 1, "missing.txt"},
      {{"--data", folder / "empty.txt"}, 1, "empty"},
      {{"--data", folder / "nothing"}, 1, "no files"},
      {{"--data", folder / "short.txt"}, 1, "fewer than one window of 64"},
      {{"--data", data, "--valid", folder / "missing.txt"}, 1, "missing.txt"},
      {{"--data", data, "--preset", "tinny"}, 1, "tiny"},
      {{"--data", data, "--config", folder / "missing.json"}, 1, "missing.json"},
      {{"--data", data, "--config", folder / "broken.json"}, 1, "broken.json"},
      {{"--data", data, "--config", folder / "unknown.json"}, 1, "stagez"},
      {{"--data", data, "--set", "stages.0.dim=33"}, 1, "33"},
      {{"--data", data, "--set", "stages.0.width=32"}, 2, "width"},
      {{"--data", data, "--set", "vocab_size=90"}, 1, "90 symbols"},
      {{"--data", data, "--device", "reference", "--dtype", "bf16"}, 1, "--dtype"},
      {{"--data", data, "--device", "reference", "--dtype", "fp8"}, 1, "use --dtype bf16"},
      {{"--data", data, "--device", "tpu"}, 2, "--device"},
      {{"--data", data, "--dtype", "f16"}, 2, "--dtype"},
      {{"--data", data, "--bogus"}, 2, "--bogus"},
      {{"--data", data, "--steps", "0"}, 2, "--steps"},
      {{"--data", data, "--minutes", "1"}, 2, "--minutes"},
      {{"--data", data, "--batch", "0"}, 2, "--batch"},
      {{"--data", data, "--micro-batch", "3"}, 2, "--micro-batch"},
      {{"--data", data, "--short-length", "48"}, 2, "must divide the context of 64"},
      {{"--data", data, "--short-part", "0"}, 2, "--short-part"},
      {{"--data", data, "--lr", "fast"}, 2, "--lr"},
      {{"--data", data, "--schedule", "step"}, 2, "--schedule"},
      {{"--data", data, "--resume", "--overwrite"}, 2, "--overwrite"},
      {{}, 2, "--data"}};
  for (const BadUse& bad : cases) {
    std::vector<std::string> arguments{"train", "--out", folder / "model", "--threads", "1"};
    arguments.insert(arguments.end(), bad.options.begin(), bad.options.end());
    const auto unless_given = [&](const std::string& option, const std::string& value) {
      if (std::ranges::find(arguments, option) == arguments.end())
        arguments.insert(arguments.end(), {option, value});
    };
    if (std::ranges::find(arguments, "--preset") == arguments.end())
      unless_given("--config", config);
    unless_given("--steps", "2");
    const CommandResult result = run_megabyte(arguments);
    EXPECT_EQ(result.exit_code, bad.exit_code) << bad.message << ": " << result.err;
    EXPECT_THAT(result.err, HasSubstr(bad.message));
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(fs::exists(folder / "model")) << bad.message;
  }
}

TEST(TrainCommand, AnOutThatCannotBe) {
  const TrainFolder folder;
  CommandResult result = folder.train("data.txt", {"--steps", "2"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("not a folder"));
  result = folder.train("data.txt/model", {"--steps", "2"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("cannot create"));
  EXPECT_EQ(run_megabyte({"train", "--data", folder / "data.txt"}).exit_code, 2);
  EXPECT_EQ(folder.train("model", {"--device", "exact"}).exit_code, 2);  // it does not train
}

TEST(TrainCommand, HelpSaysItAll) {
  const CommandResult help = run_megabyte({"train", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word : {"--resume", "--minutes", "--checkpoint-activations", "metrics.jsonl",
                           "training.safetensors", "SIGTERM", "last 5%"})
    EXPECT_THAT(help.out, HasSubstr(word));
}

}  // namespace
}  // namespace megabyte::test
