#include "generate/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "model/files.h"
#include "support/configs.h"
#include "support/device.h"
#include "support/errors.h"
#include "support/models.h"
#include "support/recording_backend.h"

namespace megabyte {
namespace {

using test::NamedConfig;

using test::full_logits;
using test::random_tokens;
using test::relative_error;
using test::to_host;
using test::WideModel;

// Logits of the full forward for the next byte after each row of `tokens` (B, L).
std::vector<double> next_logits(Hierarchy& model, const std::vector<uint16_t>& tokens,
                                int64_t batch) {
  const auto length = static_cast<int64_t>(tokens.size()) / batch;
  std::vector<uint16_t> longer;
  for (int64_t b = 0; b < batch; ++b) {
    longer.insert(longer.end(), tokens.begin() + b * length, tokens.begin() + (b + 1) * length);
    longer.push_back(0);
  }
  const std::vector<double> all = full_logits(model, longer, batch);
  const int64_t V = model.config().vocab_size, predicted = model.predicted(length + 1);
  std::vector<double> last;
  for (int64_t b = 0; b < batch; ++b) {
    const auto end = all.begin() + (b + 1) * predicted * V;
    last.insert(last.end(), end - V, end);
  }
  return last;
}

// The first `length` tokens of each row.
std::vector<uint16_t> prefix(const std::vector<uint16_t>& rows, int64_t batch, int64_t length) {
  const auto all = static_cast<int64_t>(rows.size()) / batch;
  std::vector<uint16_t> out;
  for (int64_t b = 0; b < batch; ++b)
    out.insert(out.end(), rows.begin() + b * all, rows.begin() + b * all + length);
  return out;
}

// Column t of rows (B, L).
std::vector<uint16_t> column(const std::vector<uint16_t>& rows, int64_t batch, int64_t t) {
  std::vector<uint16_t> out;
  for (int64_t b = 0; b < batch; ++b)
    out.push_back(rows[static_cast<size_t>(b * (static_cast<int64_t>(rows.size()) / batch) + t)]);
  return out;
}

void compare_with_full_forward(Hierarchy& model, double tolerance,
                               const std::vector<int64_t>& batches = {1, 3}) {
  const Config& config = model.config();
  const int64_t T = config.context(), V = config.vocab_size;
  for (const int64_t batch : batches) {
    const std::vector<uint16_t> rows = random_tokens(config, batch * T, 4);
    const bool moving = config.latents > 0;  // its logits depend on where the row ends
    const std::vector<double> all =
        moving ? std::vector<double>{} : full_logits(model, rows, batch);
    Decoder decoder(model, batch);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<double> expected;
      if (moving) {
        expected = next_logits(model, prefix(rows, batch, t), batch);
      } else {
        for (int64_t b = 0; b < batch; ++b)
          expected.insert(expected.end(), all.begin() + (b * T + t) * V,
                          all.begin() + (b * T + t + 1) * V);
      }
      ASSERT_LE(relative_error(to_host(model.backend(), decoder.advance()), expected), tolerance)
          << "byte " << t << " of a batch of " << batch;
      decoder.accept(column(rows, batch, t).data());
    }
  }
}

class DecoderTest : public testing::TestWithParam<NamedConfig> {
 protected:
  const Config& config() const { return GetParam().config; }
};

TEST_P(DecoderTest, CachedLogitsAreThoseOfTheFullForwardInDouble) {
  WideModel wide(config(), "reference", DType::f64);
  compare_with_full_forward(wide.model, 1e-11);
}

TEST_P(DecoderTest, CachedLogitsAreThoseOfTheFullForwardOnTheFastestBackend) {
  WideModel wide(config(), "auto", DType::f32);
  compare_with_full_forward(wide.model, 1e-5);
}

// Linear attention that turns a window for each patch is the one thing it refuses.
bool turns_windows(const Config& config) {
  return std::any_of(config.stages.begin(), config.stages.end(), [](const StageConfig& stage) {
    return stage.positions == Positions::rotary && stage.attention == AttentionKind::linear &&
           stage.cross_patch > 0;
  });
}

TEST_P(DecoderTest, CachedLogitsAreThoseOfTheFullForwardBitForBitOnTheExactBackend) {
  WideModel wide(config(), "exact", DType::f32);
  if (turns_windows(config()))
    EXPECT_THAT(test::error_of([&] { compare_with_full_forward(wide.model, 0); }),
                testing::HasSubstr("does not run linear attention across patches"));
  else
    compare_with_full_forward(wide.model, 0);
}

// A prompt gives what its bytes give one by one, whatever its length; beyond the context too.
void compare_prompts_with_single_bytes(WideModel& wide, double tolerance,
                                       std::optional<int64_t> kept = {}) {
  const Config& config = wide.model.config();
  const int64_t T = config.context(), batch = 2;
  const std::vector<uint16_t> rows = random_tokens(config, batch * 3 * T, 5);
  const int64_t dropped = T - kept.value_or(Decoder::half_context(config));
  Decoder decoder(wide.model, batch, {}, kept), fresh(wide.model, batch, {}, kept);
  for (int64_t t = 0; t < 3 * T; ++t) {
    const std::vector<double> slid = to_host(*wide.backend, decoder.advance());
    fresh.prompt(prefix(rows, batch, t).data(), t);
    ASSERT_LT(fresh.length(), T);
    ASSERT_LE(relative_error(to_host(*wide.backend, fresh.advance()), slid), tolerance) << t;
    int64_t start = 0;
    while (t - start >= T) start += dropped;
    ASSERT_EQ(decoder.length(), t - start);
    if (t % 7 == 3) {
      std::vector<uint16_t> visible;
      for (int64_t b = 0; b < batch; ++b)
        visible.insert(visible.end(), rows.begin() + b * 3 * T + start,
                       rows.begin() + b * 3 * T + t);
      ASSERT_LE(relative_error(next_logits(wide.model, visible, batch), slid), tolerance) << t;
    }
    decoder.accept(column(rows, batch, t).data());
  }
}

TEST_P(DecoderTest, APromptOfAnyLengthContinuesLikeItsEnd) {
  WideModel wide(config(), "reference", DType::f64);
  compare_prompts_with_single_bytes(wide, 1e-11);
}

TEST_P(DecoderTest, APromptOfAnyLengthContinuesBitForBitLikeItsEndOnTheExactBackend) {
  if (turns_windows(config())) GTEST_SKIP() << "the exact backend does not run this model";
  WideModel wide(config(), "exact", DType::f32);
  compare_prompts_with_single_bytes(wide, 0);
}

TEST_P(DecoderTest, AFullRowKeepsAsManyBytesAsItIsTold) {
  if (turns_windows(config())) GTEST_SKIP() << "the exact backend does not run this model";
  WideModel wide(config(), "exact", DType::f32);
  for (const int64_t kept : {int64_t{0}, int64_t{1}, config().patch_bytes(0)})
    if (kept < config().context()) compare_prompts_with_single_bytes(wide, 0, kept);
}

// The tokens of runs, drawn with the likeliest byte, are those of bytes taken one by one.
void compare_runs_with_single_bytes(WideModel& wide) {
  const Config& config = wide.model.config();
  const int64_t V = config.vocab_size;
  for (const int64_t batch : {1, 3}) {
    const auto likeliest = [&](int64_t, const Tensor& logits, const Tensor& tokens) {
      wide.backend->sample({.batch = batch, .vocab = V, .temperature = 0, .top_k = 0, .top_p = 1},
                           logits, {}, tokens);
    };
    Decoder runs(wide.model, batch, likeliest), single(wide.model, batch);
    const std::vector<uint16_t> prompt = random_tokens(config, batch * 3, 6);
    // Twice: what was recorded for the first rows serves the second ones.
    for (const int64_t length : {0, 3}) {
      runs.prompt(prompt.data(), length);
      single.prompt(prompt.data(), length);
      int64_t drawn = 0;
      while (drawn < 3 * config.context()) {
        const Decoder::Run run = runs.next_run(drawn == 1 ? 2 : runs.run_length());
        const std::vector<uint16_t> tokens = runs.draw(run);
        for (int64_t t = 0; t < run.count; ++t) {
          const std::vector<double> logits = to_host(*wide.backend, single.advance());
          std::vector<uint16_t> expected;
          for (int64_t b = 0; b < batch; ++b) {
            const auto row = logits.begin() + b * V;
            expected.push_back(static_cast<uint16_t>(std::max_element(row, row + V) - row));
          }
          const auto begin = tokens.begin() + t * batch;
          ASSERT_EQ(std::vector<uint16_t>(begin, begin + batch), expected)
              << "byte " << drawn + t << " of a batch of " << batch;
          single.accept(expected.data());
        }
        drawn += run.count;
        ASSERT_EQ(runs.length(), single.length());
      }
    }
  }
}

TEST_P(DecoderTest, RunsDrawWhatSingleBytesDo) {
  WideModel wide(config(), "auto", DType::f32);
  compare_runs_with_single_bytes(wide);
}

// Patches are replayed where they repeat: all, or those at one place of a row.
TEST_P(DecoderTest, RecordedRunsDrawWhatSingleBytesDo) {
  auto backend = std::make_unique<test::RecordingBackend>();
  const test::RecordingBackend& recorder = *backend;
  WideModel wide(config(), std::move(backend), DType::f32);
  compare_runs_with_single_bytes(wide);
  if (config().patch_bytes(0) == 1) {
    EXPECT_EQ(recorder.recordings, 0);
  } else {
    EXPECT_GT(recorder.recordings, 0);
    EXPECT_GT(recorder.replays, recorder.recordings);
  }
}

INSTANTIATE_TEST_SUITE_P(Family, DecoderTest, testing::ValuesIn(test::small_configs()),
                         [](const auto& c) { return c.param.name; });

// The golden models: the project's own, and those of a sibling folder where there is one.
TEST(Decoder, CachedLogitsOfGoldenModelsAreThoseOfTheFullForward) {
  namespace fs = std::filesystem;
  const fs::path source = MEGABYTE_SOURCE_DIR;
  for (const fs::path& root : {source / "tests/fixtures", source / "../shared/golden"}) {
    if (!fs::is_directory(root)) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      if (!fs::exists(entry.path() / "model.safetensors")) continue;
      SCOPED_TRACE(entry.path().string());
      const auto backend = make_backend("auto", 2);
      const auto model = load_model(entry.path(), *backend, DType::f32, false);
      compare_with_full_forward(*model, 1e-5);
    }
  }
}

// There whole patches are recorded and replayed.
TEST(Cuda, RunsDrawWhatSingleBytesDo) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  for (const NamedConfig& each : test::small_configs()) {
    SCOPED_TRACE(each.name);
    WideModel wide(each.config, "cuda", DType::f32);
    compare_runs_with_single_bytes(wide);
  }
}

// Stages as wide as those that decode as one kernel there, with windows short and long, and as many
// rows: one has a kernel of its own, up to 8 and up to 16 another, 17 go operation by operation. A
// batch after another finds what the other left.
void compare_wide_stages(const Config& config) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  WideModel wide(config, "cuda", DType::bf16, 0.03, 0.01);
  compare_with_full_forward(wide.model, 3e-2, {1, 16, 3, 8, 2, 11, 17, 16});
}
TEST(Cuda, WideStagesOfPatchesDecodeWhatTheFullForwardGives) {
  compare_wide_stages(
      {.stages = {{.length = 21, .dim = 2048, .layers = 2, .heads = 32, .ffn = 8192},
                  {.length = 8, .dim = 1024, .layers = 3, .heads = 16, .ffn = 4096}}});
}
TEST(Cuda, WideStagesOfBytesDecodeWhatTheFullForwardGives) {
  compare_wide_stages(
      {.stages = {{.length = 150, .dim = 1024, .layers = 2, .heads = 16, .ffn = 4096}}});
}

TEST(Decoder, SlidingKeepsHalfAContextInWholePatches) {
  EXPECT_EQ(Decoder::half_context({.stages = {{.length = 6}, {.length = 4}}}), 12);
  EXPECT_EQ(Decoder::half_context({.stages = {{.length = 5}, {.length = 4}}}), 8);
  EXPECT_EQ(Decoder::half_context({.stages = {{.length = 1}, {.length = 4}}}), 2);
  EXPECT_EQ(Decoder::half_context({.stages = {{.length = 9}}}), 4);
  EXPECT_EQ(Decoder::half_context({.stages = {{.length = 1}}}), 0);
}

}  // namespace
}  // namespace megabyte
