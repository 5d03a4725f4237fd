#include "eval/scoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "data/byte_dataset.h"
#include "support/configs.h"
#include "support/model_folder.h"
#include "support/models.h"

namespace megabyte {
namespace {

using test::WideModel;

std::vector<uint8_t> random_file(size_t bytes) {
  Random random(3, 0);
  std::vector<uint8_t> file(bytes);
  for (uint8_t& b : file) b = static_cast<uint8_t>(random.below(256));
  if (bytes > 2) file[2] = 0;
  return file;
}

// Nats of byte t when the model sees file[start..end) and no more.
template <class Symbol>
double naive_nats(WideModel& wide, const std::vector<Symbol>& file, int64_t start, int64_t end,
                  int64_t t) {
  const std::vector<uint16_t> tokens(file.begin() + start, file.begin() + end);
  const std::vector<double> logits = test::full_logits(wide.model, tokens, 1);
  const int64_t V = wide.model.config().vocab_size, rows = static_cast<int64_t>(logits.size()) / V;
  const double* row = logits.data() + (t - (end - rows)) * V;
  const double top = *std::max_element(row, row + V);
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - top);
  return top + std::log(sum) - row[file[static_cast<size_t>(t)]];
}

// The definition of each method, byte by byte.
double naive_total(WideModel& wide, ScoringMethod method, const std::vector<uint8_t>& file) {
  const Config& config = wide.model.config();
  const int64_t T = config.context(), P = config.patch_bytes(0), N = std::ssize(file);
  const bool slides = method == ScoringMethod::sliding || method == ScoringMethod::sliding_strided;
  const bool strides = method == ScoringMethod::strided || method == ScoringMethod::sliding_strided;
  double total = 0;
  for (int64_t t = 0; t < N; ++t) {
    const int64_t offset = strides && t % P >= P / 2 ? P / 2 : 0;
    const int64_t in_pass = t - offset;
    if (config.latents > 0) {
      const int64_t step = slides ? config.latents / 2 : config.latents;
      int64_t end = config.latents;
      while (end <= t) end += step;
      total += naive_nats(wide, file, std::max<int64_t>(0, end - T), std::min(end, N), t);
    } else {
      const int64_t step = slides ? T / 2 : T;
      int64_t start = 0;
      while (start + T <= in_pass) start += step;
      total += naive_nats(wide, file, offset + start, t + 1, t);
    }
  }
  return total;
}

TEST(Scoring, TotalsAreThoseOfTheDefinition) {
  for (const auto& [name, config] : test::small_configs()) {
    if (name != "paper" && name != "cross_patch" && name != "hourglass" && name != "perceiver" &&
        name != "byte_transformer" && name != "three_stages")
      continue;
    WideModel wide(config, "reference", DType::f64);
    for (const ScoringMethod method : {ScoringMethod::basic, ScoringMethod::sliding,
                                       ScoringMethod::strided, ScoringMethod::sliding_strided}) {
      if (config.patch_bytes(0) == 1 && method != ScoringMethod::basic &&
          method != ScoringMethod::sliding)
        continue;
      for (const size_t bytes : {1, 5, 24, 61}) {
        const std::vector<uint8_t> file = random_file(bytes);
        const double expected = naive_total(wide, method, file);
        for (const int64_t batch : {1, 4}) {
          const Score score = Scorer(wide.model, method, batch).score("file", file);
          EXPECT_EQ(score.bytes, std::ssize(file));
          EXPECT_NEAR(score.nats, expected, 1e-9 * expected)
              << name << " " << name_of(method) << " " << bytes;
          double by_place = 0;
          for (const double nats : score.nats_at) by_place += nats;
          EXPECT_NEAR(by_place, score.nats, 1e-9 * expected);
        }
      }
    }
  }
}

// A document comes after the end of another, and its own end costs nats, too.
TEST(Scoring, EndsOfDocumentsAreScored) {
  WideModel wide(test::small_config("vocab_257"), "reference", DType::f64);
  for (const size_t bytes : {1, 22, 23, 60}) {
    const std::vector<uint8_t> file = random_file(bytes);
    for (const bool complete : {true, false}) {
      std::vector<uint16_t> symbols{kEndOfDocument};
      symbols.insert(symbols.end(), file.begin(), file.end());
      if (complete) symbols.push_back(kEndOfDocument);
      double expected = 0;
      for (int64_t t = 1; t < std::ssize(symbols); ++t)
        expected += naive_nats(wide, symbols, t / 24 * 24, t + 1, t);
      const Score score =
          Scorer(wide.model, ScoringMethod::basic, 2).score("file", file, {}, complete);
      EXPECT_EQ(score.bytes, std::ssize(file));
      EXPECT_NEAR(score.nats, expected, 1e-9 * expected) << bytes;
      int64_t symbols_scored = 0;
      for (const int64_t n : score.symbols_at) symbols_scored += n;
      EXPECT_EQ(symbols_scored, std::ssize(symbols) - 1);
    }
  }
}

TEST(Scoring, FilesAddUp) {
  const Config config = test::small_configs().front().config;
  WideModel wide(config, "reference", DType::f32);
  Scorer scorer(wide.model, ScoringMethod::strided, 2);
  Score total;
  const Score a = scorer.score("a", random_file(30)), b = scorer.score("b", random_file(50));
  total += a;
  total += b;
  EXPECT_EQ(total.bytes, 80);
  EXPECT_DOUBLE_EQ(total.nats, a.nats + b.nats);
  EXPECT_EQ(total.forward_bytes, a.forward_bytes + b.forward_bytes);
  int64_t placed = 0;
  for (const int64_t n : total.symbols_at) placed += n;
  EXPECT_EQ(placed, 80);
}

TEST(Scoring, ProgressNeverGoesBack) {
  const Config config = test::small_configs().front().config;
  WideModel wide(config, "reference", DType::f32);
  int64_t last = 0;
  const Score score = Scorer(wide.model, ScoringMethod::sliding, 2)
                          .score("file", random_file(100), [&](const Score& so_far) {
                            EXPECT_GT(so_far.bytes, last);
                            last = so_far.bytes;
                          });
  EXPECT_EQ(last, score.bytes);
}

TEST(Scoring, AByteOutsideTheVocabularyIsNamed) {
  Config config = test::small_configs().front().config;
  config.vocab_size = 100;
  WideModel wide(config, "reference", DType::f32);
  const std::vector<uint8_t> file{1, 2, 200};
  try {
    Scorer(wide.model, ScoringMethod::basic, 1).score("file", file);
    FAIL() << "should have thrown";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("file has byte 200 at 2"), std::string::npos) << e.what();
  }
}

TEST(Scoring, WordsAreSeparatedByWhiteSpace) {
  const auto count = [](std::string_view s) {
    return count_words({reinterpret_cast<const uint8_t*>(s.data()), s.size()});
  };
  EXPECT_EQ(count(""), 0);
  EXPECT_EQ(count(" \n"), 0);
  EXPECT_EQ(count("one"), 1);
  EXPECT_EQ(count(" one\ttwo\n\nthree "), 3);
}

}  // namespace
}  // namespace megabyte
