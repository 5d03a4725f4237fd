#include "train/run.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "support/model_folder.h"
#include "support/training.h"

namespace megabyte {
namespace {

// Validations that take far longer than steps do.
struct ShortRun {
  test::TrainFolder files;
  TrainingState state;
  std::unique_ptr<Backend> backend = make_backend("reference");

  ShortRun() {
    state.config = test::small_config("cross_patch");
    TrainSettings& s = state.settings;
    s.data = {files / "data.txt"};
    s.valid = s.data;
    s.batch = 1;
    s.steps = 20;
    s.valid_every = 0;
    s.valid_bytes = 3000;
    s.dtype = "f32";
  }
  // Of the run: its result, and the steps after which it validated.
  std::pair<RunResult, std::vector<int64_t>> run(RunCallbacks callbacks) {
    const TrainingData data(state.settings, state.config);
    TrainingModel model(files / "out", state, false, *backend, DType::f32);
    TrainingRun run(files / "out", state, model.trainer(), data);
    run.begin();
    std::vector<int64_t> validated;
    callbacks.on_step = [&](const Metrics& metrics, const RunStatus&) {
      if (metrics.valid_bpb) validated.push_back(metrics.step);
    };
    callbacks.on_note = [](const std::string&) {};
    callbacks.stop_requested = [] { return false; };
    const RunResult result = run.run(callbacks);
    return {result, validated};
  }
};

TEST(TrainingRun, ValidatesWhereTheCallerSays) {
  ShortRun run;
  run.state.settings.valid_bytes = 64;
  const auto [result, validated] =
      run.run({.validation_due = [](double progress) { return progress == 0.25; }});
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(validated, (std::vector<int64_t>{5, 20}));
}

TEST(TrainingRun, OnlyStepsCountWhereTheCallerSaysSo) {
  const auto timed = [](bool only_steps) {
    ShortRun run;
    const auto start = std::chrono::steady_clock::now();
    const auto [result, validated] =
        run.run({.validation_due = [](double) { return true; }, .only_steps_count = only_steps});
    EXPECT_EQ(validated.size(), 20u);
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    const auto last = nlohmann::json::parse(test::lines_of(run.files / "out/metrics.jsonl").back());
    EXPECT_LE(last.at("seconds").get<double>(), result.elapsed);
    return result.elapsed / wall.count();
  };
  EXPECT_GT(timed(false), 0.5);
  EXPECT_LT(timed(true), 0.5);
}

}  // namespace
}  // namespace megabyte
