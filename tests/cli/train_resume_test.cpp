// Runs that are stopped, killed, or out of disk space lose at most the steps since their last
// checkpoint, and continue as if nothing had been.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "base/random.h"
#include "support/training.h"

namespace megabyte::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

void pause(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

// Waits until the run has written that many lines of metrics.
void wait_for_lines(RunningMegabyte& run, const std::string& model, size_t count) {
  while (run.running() && lines_of(model + "/metrics.jsonl").size() < count) pause(1);
}

// Whatever the number of threads, as long as it stays the same.
TEST(TrainResume, OnSeveralThreads) {
  const TrainFolder folder;
  const std::vector<std::string> options{"--threads", "2",        "--schedule",
                                         "constant",  "--warmup", "0"};
  const auto train = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> all = options;
    all.insert(all.end(), more.begin(), more.end());
    const CommandResult result = folder.train(out, all);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  };
  train("whole", {"--steps", "5"});
  train("parts", {"--steps", "3"});
  train("parts", {"--steps", "5", "--resume"});
  // The shorter run also validated at its end, which is in its metrics.
  expect_same_tensors(folder / "parts/training.safetensors", folder / "whole/training.safetensors");
}

const std::vector<std::string> kRun{"--steps",       "200",     "--save-every",   "20",
                                    "--valid-every", "50",      "--valid-bytes",  "512",
                                    "--dropout",     "0.1,0.2", "--short-length", "16"};

TEST(TrainResume, ContinuesFromACheckpointToTheBit) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("whole", kRun).exit_code, 0);
  // The same run, as it stood after 20 steps: killed right after its first checkpoint.
  {
    RunningMegabyte run(folder.arguments("parts", kRun));
    wait_for_lines(run, folder / "parts", 25);
    run.send(SIGKILL);
    EXPECT_EQ(run.wait().exit_code, 128 + SIGKILL);
  }
  const int64_t step = checkpoint_step(folder / "parts");
  EXPECT_GE(step, 20);
  EXPECT_LT(step, 200);
  const CommandResult resumed = folder.train("parts", {"--resume"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  expect_same_run(folder / "parts", folder / "whole");
}

TEST(TrainResume, SignalsStopAfterTheStepWithACheckpoint) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("whole", kRun).exit_code, 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    std::vector<std::string> arguments = folder.arguments("parts", kRun);
    arguments.push_back(signal == SIGINT ? "--overwrite" : "--resume");
    RunningMegabyte run(arguments);
    wait_for_lines(run, folder / "parts", signal == SIGINT ? 10 : 60);
    run.send(signal);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("--resume"));
    const int64_t step = checkpoint_step(folder / "parts");
    EXPECT_LT(step, 200);
    EXPECT_EQ(lines_of(folder / "parts/metrics.jsonl").size(), static_cast<size_t>(step));
  }
  ASSERT_EQ(folder.train("parts", {"--resume"}).exit_code, 0);
  expect_same_run(folder / "parts", folder / "whole");
}

TEST(TrainResume, ASecondSignalEndsAtOnce) {
  const TrainFolder folder;
  RunningMegabyte run(
      folder.arguments("model", {"--steps", "9", "--batch", "20000", "--micro-batch", "100"}));
  while (run.running() && checkpoint_step(folder / "model") < 0) pause(5);
  pause(100);
  run.send(SIGINT);
  pause(100);
  EXPECT_TRUE(run.running());  // at its step
  run.send(SIGINT);
  EXPECT_EQ(run.wait().exit_code, 128 + SIGINT);
  EXPECT_EQ(checkpoint_step(folder / "model"), 0);
}

TEST(TrainResume, SurvivesBeingKilledAtAnyMoment) {
  const TrainFolder folder;
  const std::vector<std::string> run_options{"--steps",       "60", "--save-every",  "3",
                                             "--valid-every", "7",  "--valid-bytes", "512"};
  ASSERT_EQ(folder.train("whole", run_options).exit_code, 0);
  Random random(3, 0);
  int killed = 0;
  for (int attempt = 0; attempt < 40; ++attempt) {
    const int64_t before = checkpoint_step(folder / "parts");
    if (before == 60) break;
    std::vector<std::string> arguments = folder.arguments("parts", run_options);
    if (before >= 0) arguments.push_back("--resume");
    RunningMegabyte run(arguments);
    pause(static_cast<int>(20 + random.below(150)));
    killed += run.running();
    run.send(SIGKILL);
    run.wait();
    EXPECT_GE(checkpoint_step(folder / "parts"), before);
  }
  EXPECT_GT(killed, 0);
  std::vector<std::string> rest = run_options;
  rest.push_back(checkpoint_step(folder / "parts") >= 0 ? "--resume" : "--overwrite");
  const CommandResult last = folder.train("parts", rest);
  ASSERT_EQ(last.exit_code, 0) << last.err;
  expect_same_run(folder / "parts", folder / "whole");
}

TEST(TrainResume, AFinishedRunSaysSo) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "3"}).exit_code, 0);
  const std::string before = read_file(folder / "model/training.safetensors");
  const CommandResult again = folder.train("model", {"--steps", "3", "--resume"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.err, HasSubstr("finished"));
  EXPECT_EQ(read_file(folder / "model/training.safetensors"), before);
  // A larger budget continues it, whatever its kind.
  const CommandResult more = folder.train("model", {"--bytes", "1500", "--resume"});
  EXPECT_EQ(more.exit_code, 0) << more.err;
  EXPECT_EQ(checkpoint_step(folder / "model"), 6);
}

TEST(TrainResume, RewritesAModelThatLagsBehind) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "2"}).exit_code, 0);
  const std::string old_model = read_file(folder / "model/model.safetensors");
  ASSERT_EQ(folder.train("model", {"--steps", "4", "--resume"}).exit_code, 0);
  const std::string new_model = read_file(folder / "model/model.safetensors");
  ASSERT_NE(new_model, old_model);
  write_file(folder / "model/model.safetensors", old_model);
  ASSERT_EQ(folder.train("model", {"--resume"}).exit_code, 0);
  EXPECT_EQ(read_file(folder / "model/model.safetensors"), new_model);
  fs::remove(folder / "model/model.safetensors");
  fs::remove(folder / "model/config.json");
  ASSERT_EQ(folder.train("model", {"--resume"}).exit_code, 0);
  EXPECT_EQ(read_file(folder / "model/model.safetensors"), new_model);
  EXPECT_TRUE(fs::exists(folder / "model/config.json"));
}

TEST(TrainResume, AFullDiskLeavesTheOldCheckpoint) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "5"}).exit_code, 0);
  const std::string training = read_file(folder / "model/training.safetensors"),
                    model = read_file(folder / "model/model.safetensors");
  RunningMegabyte full(folder.arguments("model", {"--steps", "9", "--resume"}), "",
                       training.size() - 1000);
  const CommandResult result = full.wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("training.safetensors"));
  EXPECT_EQ(read_file(folder / "model/training.safetensors"), training);
  EXPECT_EQ(read_file(folder / "model/model.safetensors"), model);
  for (const auto& entry : fs::directory_iterator(folder / "model"))
    EXPECT_NE(entry.path().extension(), ".tmp");
  // And with space again the run goes on as if nothing had been.
  ASSERT_EQ(folder.train("model", {"--steps", "9", "--resume"}).exit_code, 0);
  EXPECT_EQ(lines_of(folder / "model/metrics.jsonl").size(), 9u);
  // A new run notices before it trains.
  RunningMegabyte fresh(folder.arguments("other", {"--steps", "9"}), "", 1000);
  EXPECT_EQ(fresh.wait().exit_code, 1);
  EXPECT_FALSE(fs::exists(folder / "other/training.safetensors"));
  EXPECT_FALSE(fs::exists(folder / "other/metrics.jsonl"));
}

TEST(TrainResume, AnotherRunIsAnErrorThatNamesTheOption) {
  const TrainFolder folder;
  ASSERT_EQ(folder.train("model", {"--steps", "2"}).exit_code, 0);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"--batch", "8"}, "--batch"},
      {{"--seed", "7"}, "--seed"},
      {{"--schedule", "linear"}, "--schedule"},
      {{"--weight-decay", "0.2"}, "--weight-decay"},
      {{"--set", "stages.1.layers=2"}, "stages.1.layers"},
      {{"--preset", "tiny"}, "stages."},
      {{"--valid", folder / "config.json"}, "--valid"},
      {{"--data", folder / "config.json"}, "--data"}};
  const std::string before = read_file(folder / "model/training.safetensors");
  for (const auto& [options, name] : cases) {
    std::vector<std::string> arguments{"train",    "--out",   folder / "model",
                                       "--resume", "--steps", "4"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const CommandResult result = run_megabyte(arguments);
    EXPECT_NE(result.exit_code, 0) << name;
    EXPECT_THAT(result.err, HasSubstr(name));
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
  EXPECT_EQ(read_file(folder / "model/training.safetensors"), before);
}

TEST(TrainResume, NothingOrDamagedThingsToResume) {
  const TrainFolder folder;
  CommandResult result = folder.train("model", {"--steps", "2", "--resume"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("training.safetensors"));
  ASSERT_EQ(folder.train("model", {"--steps", "2"}).exit_code, 0);
  const std::string file = folder / "model/training.safetensors", good = read_file(file);

  const auto expect_error = [&](const std::string& content, const std::string& message) {
    write_file(file, content);
    result = folder.train("model", {"--steps", "4", "--resume"});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_THAT(result.err, HasSubstr("training.safetensors"));
    EXPECT_EQ(read_file(file), content);
  };
  std::string future = good;
  const std::string version = R"("version":"1")";
  ASSERT_NE(future.find(version), std::string::npos);
  future.replace(future.find(version), version.size(), R"("version":"2")");
  expect_error(future, "newer megabyte");
  expect_error(good.substr(0, good.size() / 2), "training.safetensors");
  expect_error("", "training.safetensors");
  expect_error(read_file(folder / "model/model.safetensors"), "checkpoint");
}

}  // namespace
}  // namespace megabyte::test
