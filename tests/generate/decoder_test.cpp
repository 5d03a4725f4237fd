#include "generate/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/random.h"
#include "support/configs.h"

namespace megabyte {
namespace {

using test::NamedConfig;

std::vector<uint16_t> random_tokens(const Config& config, int64_t count, uint64_t seed) {
  Random random(seed, 0);
  std::vector<uint16_t> tokens(static_cast<size_t>(count));
  for (uint16_t& t : tokens)
    t = static_cast<uint16_t>(random.below(static_cast<uint64_t>(config.vocab_size)));
  return tokens;
}

// A model whose every tensor matters: wide weights, and biases and pads that are not zero.
struct WideModel {
  std::unique_ptr<Backend> backend;
  Hierarchy model;

  WideModel(const Config& config, const std::string& device, DType compute)
      : backend(make_backend(device, 2)), model(config, *backend, compute, false) {
    model.parameters().initialize(7, 0.4);
    const Tensor values = model.parameters().values();
    Random random(8, 0);
    if (values.dtype == DType::f64)
      perturb<double>(values, random);
    else
      perturb<float>(values, random);
    model.parameters().refresh_copies();
  }

  template <class T>
  void perturb(const Tensor& values, Random& random) {
    std::vector<T> host(static_cast<size_t>(values.size()));
    backend->to_host(host.data(), values);
    for (T& x : host) x += static_cast<T>(0.1 * random.normal());
    backend->from_host(values, host.data());
  }

  // Of the full forward, (B, predicted, V).
  std::vector<double> full_logits(const std::vector<uint16_t>& tokens, int64_t batch) {
    const auto length = static_cast<int64_t>(tokens.size()) / batch;
    model.prepare({.batch = batch, .length = length});
    model.forward(tokens.data());
    std::vector<double> out;
    model.copy_logits(out);
    return out;
  }

  // Logits of the next byte after each row of `tokens` (B, L).
  std::vector<double> next_logits(const std::vector<uint16_t>& tokens, int64_t batch) {
    const auto length = static_cast<int64_t>(tokens.size()) / batch;
    std::vector<uint16_t> longer;
    for (int64_t b = 0; b < batch; ++b) {
      longer.insert(longer.end(), tokens.begin() + b * length, tokens.begin() + (b + 1) * length);
      longer.push_back(0);
    }
    const std::vector<double> all = full_logits(longer, batch);
    const int64_t V = model.config().vocab_size, predicted = model.predicted(length + 1);
    std::vector<double> last;
    for (int64_t b = 0; b < batch; ++b) {
      const auto end = all.begin() + (b + 1) * predicted * V;
      last.insert(last.end(), end - V, end);
    }
    return last;
  }

  std::vector<double> host(const Tensor& logits) const {
    std::vector<double> out(static_cast<size_t>(logits.size()));
    if (logits.dtype == DType::f64) {
      backend->to_host(out.data(), logits);
    } else {
      std::vector<float> narrow(out.size());
      backend->to_host(narrow.data(), logits);
      std::copy(narrow.begin(), narrow.end(), out.begin());
    }
    return out;
  }
};

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

// The first `length` tokens of each row.
std::vector<uint16_t> prefix(const std::vector<uint16_t>& rows, int64_t batch, int64_t length) {
  const auto all = static_cast<int64_t>(rows.size()) / batch;
  std::vector<uint16_t> out;
  for (int64_t b = 0; b < batch; ++b)
    out.insert(out.end(), rows.begin() + b * all, rows.begin() + b * all + length);
  return out;
}

// Adds column t of `rows` to a decoder.
class Feeder {
 public:
  Feeder(Backend& backend, int64_t batch)
      : backend_(backend),
        buffer_(backend.allocate(static_cast<size_t>(batch) * sizeof(uint16_t))),
        tokens_{buffer_.data(), DType::u16, {batch}} {}

  void accept(Decoder& decoder, const std::vector<uint16_t>& rows, int64_t t) {
    const int64_t batch = tokens_.size();
    std::vector<uint16_t> column;
    for (int64_t b = 0; b < batch; ++b)
      column.push_back(
          rows[static_cast<size_t>(b * (static_cast<int64_t>(rows.size()) / batch) + t)]);
    backend_.from_host(tokens_, column.data());
    decoder.accept(tokens_);
  }

 private:
  Backend& backend_;
  Buffer buffer_;
  Tensor tokens_;
};

void compare_with_full_forward(const Config& config, const std::string& device, DType compute,
                               double tolerance) {
  WideModel wide(config, device, compute);
  const int64_t T = config.context(), V = config.vocab_size;
  for (const int64_t batch : {1, 3}) {
    const std::vector<uint16_t> rows = random_tokens(config, batch * T, 4);
    const bool moving = config.latents > 0;  // its logits depend on where the row ends
    const std::vector<double> all = moving ? std::vector<double>{} : wide.full_logits(rows, batch);
    Decoder decoder(wide.model, batch);
    Feeder feeder(*wide.backend, batch);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<double> expected;
      if (moving) {
        expected = wide.next_logits(prefix(rows, batch, t), batch);
      } else {
        for (int64_t b = 0; b < batch; ++b)
          expected.insert(expected.end(), all.begin() + (b * T + t) * V,
                          all.begin() + (b * T + t + 1) * V);
      }
      ASSERT_LT(relative_error(wide.host(decoder.advance()), expected), tolerance)
          << "byte " << t << " of a batch of " << batch;
      feeder.accept(decoder, rows, t);
    }
  }
}

class DecoderTest : public testing::TestWithParam<NamedConfig> {
 protected:
  const Config& config() const { return GetParam().config; }
};

TEST_P(DecoderTest, CachedLogitsAreThoseOfTheFullForwardInDouble) {
  compare_with_full_forward(config(), "reference", DType::f64, 1e-11);
}

TEST_P(DecoderTest, CachedLogitsAreThoseOfTheFullForwardOnTheFastestBackend) {
  compare_with_full_forward(config(), "auto", DType::f32, 1e-5);
}

// A prompt gives what its bytes give one by one, whatever its length; beyond the context too.
TEST_P(DecoderTest, APromptOfAnyLengthContinuesLikeItsEnd) {
  WideModel wide(config(), "reference", DType::f64);
  const int64_t T = config().context(), batch = 2;
  const std::vector<uint16_t> rows = random_tokens(config(), batch * 3 * T, 5);
  const int64_t dropped = T - Decoder::kept_when_full(config());
  Decoder decoder(wide.model, batch), fresh(wide.model, batch);
  Feeder feeder(*wide.backend, batch);
  for (int64_t t = 0; t < 3 * T; ++t) {
    const std::vector<double> slid = wide.host(decoder.advance());
    fresh.prompt(prefix(rows, batch, t).data(), t);
    ASSERT_LT(fresh.length(), T);
    ASSERT_LT(relative_error(wide.host(fresh.advance()), slid), 1e-11) << t;
    int64_t start = 0;
    while (t - start >= T) start += dropped;
    ASSERT_EQ(decoder.length(), t - start);
    if (t % 7 == 3) {
      std::vector<uint16_t> visible;
      for (int64_t b = 0; b < batch; ++b)
        visible.insert(visible.end(), rows.begin() + b * 3 * T + start,
                       rows.begin() + b * 3 * T + t);
      ASSERT_LT(relative_error(wide.next_logits(visible, batch), slid), 1e-11) << t;
    }
    feeder.accept(decoder, rows, t);
  }
}

INSTANTIATE_TEST_SUITE_P(Family, DecoderTest, testing::ValuesIn(test::small_configs()),
                         [](const auto& c) { return c.param.name; });

TEST(Decoder, SlidingKeepsHalfAContextInWholePatches) {
  EXPECT_EQ(Decoder::kept_when_full({.stages = {{.length = 6}, {.length = 4}}}), 12);
  EXPECT_EQ(Decoder::kept_when_full({.stages = {{.length = 5}, {.length = 4}}}), 8);
  EXPECT_EQ(Decoder::kept_when_full({.stages = {{.length = 1}, {.length = 4}}}), 2);
  EXPECT_EQ(Decoder::kept_when_full({.stages = {{.length = 9}}}), 4);
  EXPECT_EQ(Decoder::kept_when_full({.stages = {{.length = 1}}}), 0);
}

}  // namespace
}  // namespace megabyte
