#include "codec/archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/errors.h"
#include "support/random_bytes.h"

namespace megabyte {
namespace {

using test::random_bytes;
using testing::HasSubstr;

ArchiveHeader header_for(Bytes original, int stream_bits) {
  CodedWith with{.numerics = 7};
  with.model.fill(0x11);
  with.self_test.fill(0x22);
  return {.stream_bits = stream_bits,
          .original_bytes = original.size(),
          .original = sha256(original),
          .coded = with};
}

std::vector<uint8_t> coded_bytes(size_t count, size_t stream) {
  return std::vector<uint8_t>(count, static_cast<uint8_t>(stream + 1));
}

// An archive of streams that are coded as so many bytes.
std::vector<uint8_t> write(Bytes original, const ArchiveHeader& header,
                           const std::vector<size_t>& lengths, Bytes model = {}) {
  std::vector<uint8_t> file;
  ArchiveWriter writer(original, header, model,
                       [&](Bytes bytes) { file.insert(file.end(), bytes.begin(), bytes.end()); });
  for (size_t i = 0; i < header.stream_count(); ++i) writer.add(coded_bytes(lengths[i], i));
  writer.finish();
  EXPECT_EQ(writer.written(), file.size());
  return file;
}

std::string error_of_reading(const std::vector<uint8_t>& file) {
  return test::error_of([&] { Archive(file, "a.mbz"); });
}

class ArchiveTest : public testing::Test {
 protected:
  std::vector<uint8_t> original_ = random_bytes(1000, 1);
  ArchiveHeader header_ = header_for(original_, 8);
};

TEST_F(ArchiveTest, ReadsWhatItWrote) {
  const std::vector<uint8_t> model = random_bytes(99, 2);
  for (const Bytes inside : {Bytes{}, Bytes(model)}) {
    const std::vector<uint8_t> file = write(original_, header_, {100, 256, 300, 0}, inside);
    const Archive archive(file, "a.mbz");
    EXPECT_EQ(archive.header().original_bytes, 1000u);
    EXPECT_EQ(archive.header().original, sha256(original_));
    EXPECT_EQ(archive.header().stream_bytes(), 256u);
    ASSERT_TRUE(archive.header().coded);
    EXPECT_EQ(archive.header().coded->numerics, 7);
    EXPECT_EQ(archive.header().coded->model, header_.coded->model);
    EXPECT_EQ(archive.header().coded->self_test, header_.coded->self_test);
    EXPECT_EQ(archive.header().coded->embedded_bytes, inside.size());
    EXPECT_TRUE(
        std::equal(archive.model().begin(), archive.model().end(), inside.begin(), inside.end()));
    ASSERT_EQ(archive.stream_count(), 4u);
    const std::vector<std::vector<uint8_t>> coded{coded_bytes(100, 0), {}, {}, {}};
    for (size_t i = 0; i < 4; ++i) {
      const ArchiveStream stream = archive.stream(i);
      const Bytes part = Bytes(original_).subspan(256 * i, std::min<size_t>(256, 1000 - 256 * i));
      EXPECT_EQ(stream.first, 256 * i);
      EXPECT_EQ(stream.original_bytes, part.size());
      EXPECT_EQ(stream.crc, crc32c(part));
      EXPECT_EQ(stream.stored, i == 1 || i == 2);  // 256 and 300 bytes save nothing
      const Bytes expected = stream.stored ? part : Bytes(coded[i]);
      EXPECT_TRUE(
          std::equal(stream.bytes.begin(), stream.bytes.end(), expected.begin(), expected.end()));
    }
  }
}

TEST_F(ArchiveTest, WhatCodingDoesNotSaveIsStoredWithoutAWordOfTheModel) {
  const std::vector<uint8_t> model = random_bytes(99, 2);
  // 41 bytes saved in all, one less than the header's part about coding.
  const std::vector<uint8_t> stored = write(original_, header_, {255, 256, 216, 500}, model);
  EXPECT_EQ(stored.size(), 47 + 4 + 1000 + 4 * 8 + 4u);
  const Archive archive(stored, "a.mbz");
  EXPECT_FALSE(archive.header().coded);
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(archive.stream(i).stored);
  const std::vector<uint8_t> coded = write(original_, header_, {255, 256, 215, 500});
  EXPECT_EQ(coded.size(), stored.size());
  EXPECT_TRUE(Archive(coded, "a.mbz").header().coded);
}

TEST_F(ArchiveTest, NoFileGrowsByMoreThan64BytesAndAThousandth) {
  for (const size_t size : {0u, 1u, 16384u, 16385u, 100000u, 524288u, 524289u, 3000000u}) {
    const std::vector<uint8_t> original = random_bytes(size, 3);
    const ArchiveHeader header = header_for(original, stream_bits_for(size));
    for (const size_t shorter : {0, 1, 30}) {  // by so much in the first stream
      std::vector<size_t> lengths(header.stream_count(), header.stream_bytes());
      if (size > 30) lengths[0] = std::min(size, header.stream_bytes()) - shorter;
      EXPECT_LE(static_cast<double>(write(original, header, lengths).size()),
                static_cast<double>(size) * 1.001 + 64);
    }
  }
}

TEST_F(ArchiveTest, EveryCutAndEveryAdditionIsAnError) {
  const std::vector<uint8_t> file = write(original_, header_, {100, 256, 300, 0}, original_);
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_THAT(error_of_reading({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)}),
                HasSubstr("a.mbz"));
  std::vector<uint8_t> longer = file;
  for (int i = 0; i < 20; ++i) {
    longer.push_back(static_cast<uint8_t>(i));
    EXPECT_THAT(error_of_reading(longer), HasSubstr("follows its end"));
  }
}

TEST_F(ArchiveTest, EveryChangedByteOutsideTheStreamsIsAnError) {
  const std::vector<uint8_t> file = write(original_, header_, {100, 256, 300, 0});
  const size_t streams = 89 + 4, table = file.size() - 4 * 8 - 4;
  for (size_t i = 0; i < file.size(); ++i) {
    if (i >= streams && i < table) continue;
    for (const int change : {1, 0x80, 0xff}) {
      std::vector<uint8_t> changed = file;
      changed[i] ^= static_cast<uint8_t>(change);
      EXPECT_THAT(error_of_reading(changed), HasSubstr("a.mbz")) << i;
    }
  }
}

TEST_F(ArchiveTest, MessagesSayWhatIsWrong) {
  const std::vector<uint8_t> file = write(original_, header_, {100, 256, 300, 0});
  // Sets bytes of the header and makes its checksum right again.
  const auto with_header = [&](size_t at, std::vector<uint8_t> bytes) {
    std::vector<uint8_t> changed = file;
    std::copy(bytes.begin(), bytes.end(), changed.begin() + static_cast<std::ptrdiff_t>(at));
    const uint32_t crc = crc32c(Bytes(changed).first(89));
    for (size_t i = 0; i < 4; ++i) changed[89 + i] = static_cast<uint8_t>(crc >> 8 * i);
    return changed;
  };
  EXPECT_THAT(error_of_reading({'t', 'e', 'x', 't'}),
              HasSubstr("no archive of 'megabyte compress'"));
  EXPECT_THAT(error_of_reading({}), HasSubstr("no archive"));
  EXPECT_THAT(error_of_reading(with_header(4, {1})), HasSubstr("format version 1"));
  EXPECT_THAT(error_of_reading(with_header(5, {5})), HasSubstr("unknown flags"));
  EXPECT_THAT(error_of_reading(with_header(6, {7})), HasSubstr("length"));
  EXPECT_THAT(error_of_reading(with_header(6, {63})), HasSubstr("length"));
  // An original of 2^64 - 1 bytes: nothing is allocated for it.
  EXPECT_THAT(error_of_reading(with_header(7, std::vector<uint8_t>(8, 0xff))),
              HasSubstr("less than its header says"));
  EXPECT_THAT(error_of_reading(with_header(7, {1, 0, 0, 0, 0, 0, 0, 0})), HasSubstr("a.mbz"));
}

TEST(Archive, StreamLengthsFollowFromTheSize) {
  EXPECT_EQ(stream_bits_for(0), 14);
  EXPECT_EQ(stream_bits_for(512 * 1024), 14);
  EXPECT_EQ(stream_bits_for(512 * 1024 + 1), 15);
  EXPECT_EQ(stream_bits_for(2048 * 1024), 15);
  EXPECT_EQ(stream_bits_for(2048 * 1024 + 1), 16);
  EXPECT_EQ(stream_bits_for(~uint64_t{0}), 16);
}

}  // namespace
}  // namespace megabyte
