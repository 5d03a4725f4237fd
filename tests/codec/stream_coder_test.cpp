#include "codec/stream_coder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "backends/exact/kernels.h"
#include "backends/factories.h"
#include "base/random.h"
#include "codec/checksums.h"
#include "ops/symbols.h"
#include "support/configs.h"
#include "support/device.h"
#include "support/errors.h"
#include "support/model_folder.h"
#include "support/models.h"

namespace megabyte {
namespace {

std::vector<std::vector<uint8_t>> some_streams(size_t count, size_t longest) {
  Random random(4, 0);
  std::vector<std::vector<uint8_t>> streams;
  for (size_t i = 0; i < count; ++i) {
    streams.emplace_back(i == 0 ? longest : random.below(longest + 1));
    for (uint8_t& byte : streams.back())
      byte = static_cast<uint8_t>(random.below(1 + 255 * (i % 2)));
  }
  return streams;
}

std::vector<Bytes> spans(const std::vector<std::vector<uint8_t>>& all) {
  return {all.begin(), all.end()};
}

std::vector<std::vector<uint8_t>> decoded(StreamCoder& coder,
                                          const std::vector<std::vector<uint8_t>>& coded,
                                          const std::vector<std::vector<uint8_t>>& like) {
  std::vector<std::vector<uint8_t>> out;
  for (const auto& stream : like) out.emplace_back(stream.size());
  coder.decode(spans(coded), std::vector<std::span<uint8_t>>(out.begin(), out.end()));
  return out;
}

// Models of 256 and of 257 symbols, past their context several times; Perceiver AR, of which a
// whole row has other numbers than its bytes one by one.
TEST(StreamCoder, DecodesWhatItEncodedInAnyBatch) {
  for (const std::string config : {"cross_patch", "vocab_257", "hourglass", "perceiver"}) {
    const test::WideModel wide(test::small_config(config), "exact", DType::f32);
    const auto streams = some_streams(5, 3 * static_cast<size_t>(wide.model.config().context()));
    StreamCoder five(wide.model, 5), seven(wide.model, 7), one(wide.model, 1);
    const auto coded = five.encode(spans(streams));
    EXPECT_EQ(decoded(seven, coded, streams), streams);
    EXPECT_EQ(seven.encode(spans(streams)), coded);
    for (size_t i = 0; i < streams.size(); ++i) {
      EXPECT_EQ(one.encode(std::vector{Bytes(streams[i])}).front(), coded[i]);
      EXPECT_EQ(decoded(one, {coded[i]}, {streams[i]}).front(), streams[i]);
    }
    EXPECT_EQ(five.encode({}).size(), 0u);
  }
}

TEST(StreamCoder, CostsWhatTheModelsProbabilitiesSay) {
  test::WideModel wide(test::small_config("cross_patch"), "exact", DType::f32);
  const auto length = static_cast<size_t>(wide.model.config().context());
  auto streams = some_streams(1, length);
  for (size_t i = 0; i < length; ++i) streams[0][i] = static_cast<uint8_t>(7 * i);
  const std::vector<uint16_t> tokens(streams[0].begin(), streams[0].end());
  const std::vector<double> logits = test::full_logits(wide.model, tokens, 1);
  double bits = 0;
  for (size_t t = 0; t < length; ++t) {
    double total = 0;
    for (size_t i = 0; i < 256; ++i)
      total += std::exp(logits[256 * t + i] - logits[256 * t + tokens[t]]);
    bits += std::log2(total);
  }
  StreamCoder coder(wide.model, 1);
  EXPECT_NEAR(8 * static_cast<double>(coder.encode(spans(streams)).front().size()), bits, 9);
}

TEST(StreamCoder, CountsTheBytesAsTheyAreCodedAndCanBeStopped) {
  const test::WideModel wide(test::small_config("cross_patch"), "exact", DType::f32);
  const std::vector<std::vector<uint8_t>> streams{{1, 2, 3}, {4}};
  StreamCoder coder(wide.model, 2);
  std::vector<uint64_t> forwards, steps;
  const auto coded =
      coder.encode(spans(streams), [&](uint64_t bytes) { forwards.push_back(bytes); });
  EXPECT_EQ(forwards, (std::vector<uint64_t>{3, 1}));
  std::vector<std::vector<uint8_t>> out{std::vector<uint8_t>(3), std::vector<uint8_t>(1)};
  const std::vector<std::span<uint8_t>> to(out.begin(), out.end());
  coder.decode(spans(coded), to, [&](uint64_t bytes) { steps.push_back(bytes); });
  EXPECT_EQ(steps, (std::vector<uint64_t>{4}));  // of a patch
  const auto stop = [](uint64_t) { throw 1; };
  EXPECT_THROW(coder.encode(spans(streams), stop), int);
  EXPECT_THROW(coder.decode(spans(coded), to, stop), int);
  EXPECT_EQ(decoded(coder, coder.encode(spans(streams)), streams), streams);
}

TEST(StreamCoder, AModelThatLacksBytesIsRefused) {
  Config config = test::small_config("cross_patch");
  config.vocab_size = 255;
  const test::WideModel wide(config, "exact", DType::f32);
  EXPECT_THAT(test::error_of([&] { StreamCoder(wide.model, 1); }),
              testing::HasSubstr("knows 255 symbols"));
}

TEST(StreamCoder, TheSelfTestDependsOnTheModelAndOnNothingElse) {
  const Config config = test::small_config("cross_patch");
  test::WideModel a(config, "exact", DType::f32);
  const test::WideModel b(config, "exact", DType::f32);
  EXPECT_EQ(self_test(a.model), self_test(b.model));
  // The least change of one matrix: of one weight by one step.
  const Tensor weight = a.model.parameters().master("stages.1.blocks.0.ffn.down.weight");
  std::vector<float> values(static_cast<size_t>(weight.size()));
  a.backend->to_host(values.data(), weight);
  values[3] *= 1.5f;
  a.backend->from_host(weight, values.data());
  EXPECT_NE(self_test(a.model), self_test(b.model));
}

// A model whose weights are whole numbers of steps: no library's function has a part in them.
std::unique_ptr<Hierarchy> stepped_model(Backend& backend) {
  auto model =
      std::make_unique<Hierarchy>(test::small_config("cross_patch"), backend, DType::f32, false);
  Random random(6, 0);
  for_each_parameter(model->config(), [&](const ParameterSpec& spec) {
    std::vector<float> values(static_cast<size_t>(spec.shape.size()));
    for (float& x : values) x = static_cast<float>(random.below(255)) / 64 - 127.0f / 64;
    backend.from_host(model->parameters().master(spec.name), values.data());
  });
  model->parameters().refresh_copies();
  return model;
}

// The whole way from bytes to an archive's streams: the same on every machine. `reads` is a backend
// that must read them.
void expect_pinned_streams(Backend& writes, Backend& reads) {
  std::vector<std::vector<uint8_t>> streams(2);
  for (size_t i = 0; i < 200; ++i) streams[i % 3 == 0].push_back(static_cast<uint8_t>(i * i));
  const auto model = stepped_model(writes);
  StreamCoder coder(*model, 2);
  const auto coded = coder.encode(spans(streams));
  EXPECT_EQ(decoded(coder, coded, streams), streams);
  const auto other = stepped_model(reads);
  StreamCoder reader(*other, 3);
  EXPECT_EQ(decoded(reader, coded, streams), streams);
  Sha256 hash;
  for (const auto& stream : coded) hash.update(stream);
  hash.update(self_test(*model));
  EXPECT_EQ(hex(hash.finish()), "33ffe92dfb1c6a680851e71bfc67933d88b33593abf12e160e48e878b57b7c05");
}

// With every instruction set of this machine, and with the compilers and machines of everybody
// else, too.
TEST(StreamCoder, WritesTheSameStreamsOnEveryMachine) {
  for (const exact::Kernels* kernels : exact::available_kernels()) {
    SCOPED_TRACE(kernels->name);
    expect_pinned_streams(*make_exact_backend(1, kernels->name), *make_backend("exact", 2));
  }
}

TEST(CudaExactStreams, AreThoseOfTheProcessor) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  const auto host = make_backend("exact", 2), device = make_backend("exact-cuda");
  expect_pinned_streams(*device, *host);
  expect_pinned_streams(*host, *device);
}

// Models that record a patch and models that cannot; the ends of documents, the latents of
// Perceiver AR; streams of all lengths, past their context several times.
TEST(CudaExactStreams, AreTheSameForEveryKindOfModel) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  for (const std::string config :
       {"paper", "local_positions", "vocab_257", "hourglass", "perceiver", "byte_transformer",
        "three_stages", "patch_encoder", "linear_local"}) {
    SCOPED_TRACE(config);
    Config wanted = test::small_config(config);
    wanted.vocab_size = std::max<int64_t>(wanted.vocab_size, 256);
    const test::WideModel host(wanted, "exact", DType::f32),
        device(wanted, "exact-cuda", DType::f32);
    const auto streams = some_streams(9, 3 * static_cast<size_t>(wanted.context()) + 5);
    StreamCoder one(host.model, 9), other(device.model, 11);
    const auto coded = one.encode(spans(streams));
    EXPECT_EQ(other.encode(spans(streams)), coded);
    EXPECT_EQ(decoded(other, coded, streams), streams);
    EXPECT_EQ(decoded(other, coded, streams), streams);  // what is recorded serves again
    EXPECT_EQ(self_test(device.model), self_test(host.model));
  }
}

// What is small enough there runs in one kernel for some rows each (exact_cuda/program.h): one row,
// some, as many as there is room for, and more blocks than multiprocessors.
class SideBySide : public testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(CudaExactStreams, SideBySide, testing::Values(1, 9, 300, 2200),
                         testing::PrintToStringParamName());
TEST_P(SideBySide, StreamsAreTheSame) {
  if (const std::string why = test::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  Config config = test::small_config("hourglass");
  config.vocab_size = 256;
  config.stages.resize(2);
  StageConfig &global = config.stages[0], &local = config.stages[1];
  global.length = 16;
  local.length = 8;
  local.dim = 128;
  local.heads = 4;
  local.ffn = 512;
  local.layers = 2;
  local.positions = Positions::rotary;
  local.cross_patch = 56;
  const test::WideModel host(config, "exact", DType::f32), device(config, "exact-cuda", DType::f32);
  const size_t count = GetParam(), some = std::min<size_t>(count, 4);
  const auto streams = some_streams(count, static_cast<size_t>(config.context()) * 5 / 2);
  StreamCoder one(host.model, 4), other(device.model, static_cast<int64_t>(count));
  const auto coded = other.encode(spans(streams));
  EXPECT_EQ(decoded(other, coded, streams), streams);
  const std::vector first(coded.begin(), coded.begin() + static_cast<std::ptrdiff_t>(some));
  const std::vector whole(streams.begin(), streams.begin() + static_cast<std::ptrdiff_t>(some));
  EXPECT_EQ(decoded(one, first, whole), whole);
}

TEST(Symbols, EveryTargetBelongsToOneSymbol) {
  Random random(5, 0);
  for (const uint64_t most : {1u, 3u, 1u << 22}) {
    std::vector<uint32_t> frequencies(kByteValues);
    for (uint32_t& f : frequencies) f = 1 + static_cast<uint32_t>(random.below(most));
    uint32_t below = 0;
    for (size_t i = 0; i < kByteValues; ++i) {
      EXPECT_EQ(sum(frequencies.data(), i), below);
      for (const uint32_t target : {below, below + frequencies[i] - 1}) {
        EXPECT_EQ(share_of(frequencies.data(), target).symbol, i);
        EXPECT_EQ(share_of(frequencies.data(), target).below, below);
      }
      below += frequencies[i];
    }
  }
}

}  // namespace
}  // namespace megabyte
