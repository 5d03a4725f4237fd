#include "codec/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "codec/in_order.h"
#include "codec/stream_coder.h"
#include "support/configs.h"
#include "support/errors.h"
#include "support/model_folder.h"
#include "support/models.h"
#include "support/random_bytes.h"

namespace megabyte {
namespace {

using test::random_bytes;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kStreamBits = 8;

CodecModel::Load random_model(uint64_t seed) {
  return [seed](Backend& backend) {
    auto model =
        std::make_unique<Hierarchy>(test::small_config("cross_patch"), backend, DType::f32, false);
    model->parameters().initialize(seed, 0.6);
    return model;
  };
}

ModelSource random_source(uint64_t seed) {
  return {"model " + std::to_string(seed), random_model(seed)};
}

std::unique_ptr<CodecModel> model_among(const std::vector<ModelSource>& sources, Bytes file,
                                        int threads = 1) {
  return model_of(Archive(file, "a.mbz"), 2, threads, sources, "a.mbz");
}

// Bytes as the model expects them: what random bits decode to.
std::vector<uint8_t> expected_bytes(const CodecModel& with, size_t count, uint64_t seed) {
  const std::vector<uint8_t> random = random_bytes(2 * count, seed);
  std::vector<uint8_t> bytes(count);
  for (size_t at = 0; at < count; at += 1 << kStreamBits) {
    const std::vector<Bytes> from{Bytes(random).subspan(at)};
    const size_t size = std::min<size_t>(1 << kStreamBits, count - at);
    const std::vector<std::span<uint8_t>> to{std::span(bytes).subspan(at, size)};
    StreamCoder(with.model(), 1).decode(from, to);
  }
  return bytes;
}

std::vector<uint8_t> compressed(const CodecModel& with, Bytes original,
                                CompressOptions options = {}) {
  options.stream_bits = kStreamBits;
  std::vector<uint8_t> file;
  const CompressResult result = compress(with, original, options, [&](Bytes bytes) {
    file.insert(file.end(), bytes.begin(), bytes.end());
  });
  EXPECT_EQ(result.archive_bytes, file.size());
  EXPECT_EQ(result.coded, Archive(file, "a").header().coded.has_value());
  return file;
}

std::vector<uint8_t> decompressed(const CodecModel* with, Bytes file, uint64_t from, uint64_t to) {
  std::vector<uint8_t> out;
  decompress(with, Archive(file, "a.mbz"), from, to, "a.mbz",
             [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); });
  return out;
}

class CodecTest : public testing::Test {
 protected:
  CodecModel one_{1, 1, random_model(7)};
  CodecModel many_{9, 3, random_model(7)};  // three threads with three streams each
};

TEST_F(CodecTest, RoundTripsDoNotDependOnThreadsAndBatches) {
  EXPECT_EQ(many_.workers(), 3);
  EXPECT_EQ(many_.batch(), 3);
  std::vector<uint8_t> mixed = expected_bytes(one_, 1000, 1);
  for (const uint8_t byte : random_bytes(700, 2)) mixed.push_back(byte);
  for (const uint8_t byte : expected_bytes(one_, 600, 3)) mixed.push_back(byte);
  for (const std::vector<uint8_t>& original :
       {mixed, expected_bytes(one_, 256, 4), expected_bytes(one_, 257, 5), random_bytes(1000, 6),
        std::vector<uint8_t>(2000, 0), std::vector<uint8_t>{'x'}, std::vector<uint8_t>{}}) {
    const std::vector<uint8_t> file = compressed(one_, original);
    EXPECT_EQ(compressed(many_, original), file);
    EXPECT_EQ(compressed(many_, original, {.verify = true}), file);
    for (const CodecModel* with : {&one_, &many_})
      EXPECT_EQ(decompressed(with, file, 0, original.size()), original);
    EXPECT_LE(static_cast<double>(file.size()), 1.001 * static_cast<double>(original.size()) + 64 +
                                                    8 * static_cast<double>(original.size() >> 8));
  }
  // What the model expects is coded, what it does not is stored.
  const std::vector<uint8_t> file = compressed(one_, mixed);
  const Archive archive(file, "a.mbz");
  EXPECT_FALSE(archive.stream(0).stored);
  EXPECT_TRUE(archive.stream(5).stored);
  EXPECT_LT(file.size(), mixed.size());
}

TEST_F(CodecTest, AnyRangeIsThatPartOfTheOriginal) {
  const std::vector<uint8_t> original = expected_bytes(one_, 1500, 1);
  const std::vector<uint8_t> file = compressed(one_, original);
  for (const auto& [from, to] : std::vector<std::pair<size_t, size_t>>{
           {0, 0}, {0, 1}, {255, 257}, {256, 512}, {300, 1400}, {1499, 1500}, {1500, 1500}}) {
    const std::vector<uint8_t> part(original.begin() + static_cast<std::ptrdiff_t>(from),
                                    original.begin() + static_cast<std::ptrdiff_t>(to));
    EXPECT_EQ(decompressed(&one_, file, from, to), part);
    EXPECT_EQ(decompressed(&many_, file, from, to), part);
  }
}

// Whatever byte is wrong: an Error, and nothing but right bytes before it. Only the last byte of a
// coded stream has room for other values that decode to the same.
TEST_F(CodecTest, EveryChangedByteAndEveryCutIsAnError) {
  std::vector<uint8_t> original = expected_bytes(one_, 256, 1);
  for (const uint8_t byte : random_bytes(40, 2)) original.push_back(byte);
  const std::vector<uint8_t> file = compressed(many_, original);
  ASSERT_TRUE(Archive(file, "a").header().coded);
  size_t unnoticed = 0;
  const auto read = [&](const std::vector<uint8_t>& damaged) {
    std::vector<uint8_t> out;
    try {
      const Archive archive(damaged, "a.mbz");
      decompress(&one_, archive, 0, original.size(), "a.mbz",
                 [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); });
      EXPECT_EQ(out, original);
      ++unnoticed;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("a.mbz"));
    }
    EXPECT_TRUE(out.size() <= original.size() &&
                std::equal(out.begin(), out.end(), original.begin()));
  };
  for (size_t i = 0; i < file.size(); ++i) {
    std::vector<uint8_t> changed = file;
    changed[i] ^= static_cast<uint8_t>(1 + i % 255);
    read(changed);
    read({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(i)});
  }
  EXPECT_LE(unnoticed, 1u);
}

TEST_F(CodecTest, AModelInsideIsUsedAndAnotherOneIsRefused) {
  const std::vector<uint8_t> original = expected_bytes(one_, 500, 1);
  const ModelSource none{
      "none", [](Backend&) -> std::unique_ptr<Hierarchy> { throw Error("asked for a model"); }};
  const std::vector<uint8_t> inside = compressed(one_, original, {.embed = true});
  const auto model = model_among({none}, inside, 2);
  EXPECT_EQ(decompressed(model.get(), inside, 0, 500), original);

  const std::vector<uint8_t> file = compressed(one_, original);
  EXPECT_EQ(test::error_of([&] { model_among({none}, file); }), "asked for a model");
  EXPECT_THAT(test::error_of([&] { model_among({random_source(8)}, file); }),
              HasSubstr("made with another model"));
  // All stored: no model is asked for.
  const std::vector<uint8_t> stored = compressed(one_, random_bytes(500, 2), {.embed = true});
  EXPECT_EQ(model_among({none}, stored), nullptr);
  EXPECT_EQ(decompressed(nullptr, stored, 0, 500), random_bytes(500, 2));
  EXPECT_LT(stored.size(), 600u);
}

TEST_F(CodecTest, OfSeveralModelsTheRightOneIsTaken) {
  const std::vector<uint8_t> original = expected_bytes(one_, 500, 1);
  const std::vector<uint8_t> file = compressed(one_, original);
  for (const std::vector<ModelSource>& sources :
       {std::vector{random_source(7), random_source(8)},
        std::vector{random_source(8), random_source(7)}}) {
    const auto model = model_among(sources, file);
    EXPECT_EQ(decompressed(model.get(), file, 0, 500), original);
  }
  EXPECT_THAT(test::error_of([&] {
                model_among({random_source(8), random_source(9)}, file);
              }),
              AllOf(HasSubstr("that of model 8 "), HasSubstr(", that of model 9 ")));
}

// Sets bytes of the header and makes its checksum right.
std::vector<uint8_t> with_header(std::vector<uint8_t> file, size_t at, uint8_t byte) {
  file[at] = byte;
  const uint32_t crc = crc32c(Bytes(file).first(89));
  for (size_t i = 0; i < 4; ++i) file[89 + i] = static_cast<uint8_t>(crc >> 8 * i);
  return file;
}

TEST_F(CodecTest, OtherArithmeticIsRefusedBeforeAnythingIsDecoded) {
  const std::vector<uint8_t> file = compressed(one_, expected_bytes(one_, 500, 1));
  const auto refused = [&](size_t at) {
    const std::vector<uint8_t> changed = with_header(file, at, static_cast<uint8_t>(file[at] + 1));
    return test::error_of([&] { model_among({random_source(7)}, changed); });
  };
  EXPECT_THAT(refused(47), HasSubstr("numbers of version"));
  EXPECT_THAT(refused(49), HasSubstr("another model"));
  EXPECT_THAT(refused(81), HasSubstr("self-test"));
  // The whole original's hash, which only decoding can prove wrong.
  const std::vector<uint8_t> other = with_header(file, 15, static_cast<uint8_t>(file[15] + 1));
  EXPECT_THAT(test::error_of([&] { decompressed(&one_, other, 0, 500); }), HasSubstr("SHA-256"));
}

TEST_F(CodecTest, ProgressEndsAtTheWholeAndCanStopTheWork) {
  const std::vector<uint8_t> original = expected_bytes(one_, 900, 1);
  uint64_t last = 0;
  std::vector<uint8_t> file;
  compress(
      many_, original, {.stream_bits = kStreamBits},
      [&](Bytes bytes) { file.insert(file.end(), bytes.begin(), bytes.end()); },
      [&](uint64_t bytes) {
        EXPECT_GE(bytes, last);
        last = bytes;
      });
  EXPECT_EQ(last, 900u);
  EXPECT_THROW(compress(
                   many_, original, {}, [](Bytes) {}, [](uint64_t) { throw Error("stop"); }),
               Error);
  EXPECT_THROW(
      decompress(&many_, Archive(file, "a"), 0, 900, "a", [](Bytes) { throw Error("full"); }),
      Error);
}

TEST(InOrder, ResultsComeInOrderWhateverTheThreadsDo) {
  for (const int threads : {1, 2, 5}) {
    std::atomic<bool> stop = false;
    std::vector<size_t> taken;
    in_order(
        50, threads, stop, [] { return [](size_t i) { return i * i; }; },
        [&](size_t i, size_t square) {
          EXPECT_EQ(square, i * i);
          taken.push_back(i);
        },
        [] {});
    ASSERT_EQ(taken.size(), 50u);
    EXPECT_TRUE(std::is_sorted(taken.begin(), taken.end()));
  }
}

TEST(InOrder, AFailureAnywhereEndsItOnce) {
  std::atomic<bool> stop = false;
  const auto worker = [] {
    return [](size_t i) {
      if (i == 7) fail("seven");
      return i;
    };
  };
  size_t taken = 0;
  EXPECT_EQ(test::error_of([&] {
              in_order(
                  1000, 3, stop, worker, [&](size_t, size_t) { ++taken; }, [] {});
            }),
            "seven");
  EXPECT_LE(taken, 7u);
  EXPECT_TRUE(stop);
}

}  // namespace
}  // namespace megabyte
