#include "data/byte_dataset.h"

#include <sys/resource.h>

#include <thread>

#include "data/manifest.h"
#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// The end of a document reads '|'.
std::string read(const ByteDataset& data, uint64_t offset, size_t size) {
  std::vector<uint16_t> symbols(size);
  data.read(offset, symbols);
  std::string out;
  for (const uint16_t symbol : symbols)
    out.push_back(symbol == kEndOfDocument ? '|' : static_cast<char>(symbol));
  return out;
}

void expect_reads(const ByteDataset& data, const std::string& whole) {
  ASSERT_EQ(data.size(), whole.size());
  for (size_t begin = 0; begin <= whole.size(); ++begin)
    for (size_t size = 0; begin + size <= whole.size(); ++size)
      EXPECT_EQ(read(data, begin, size), whole.substr(begin, size));
}

TEST(ByteDatasetTest, OneSequenceAcrossFiles) {
  test::TemporaryFolder folder;
  test::write_file(folder / "1", "abc");
  test::write_file(folder / "2", "");
  test::write_file(folder / "3", std::string("d\0", 2));
  test::write_file(folder / "4", "efg");
  const ByteDataset data({folder.path()});
  const std::string whole("abcd\0efg", 8);
  expect_reads(data, whole);
  EXPECT_EQ(data.files().size(), 4u);
  ASSERT_EQ(data.documents().size(), 3u);
  EXPECT_EQ(data.documents()[2].file, 3u);
  EXPECT_EQ(data.documents()[2].begin, 5u);
  EXPECT_EQ(&data.document_at(4), &data.documents()[1]);
  EXPECT_THROW(read(data, 5, 4), Error);
  EXPECT_THROW(read(data, 9, 0), Error);
}

TEST(ByteDatasetTest, EndsOfDocumentsAreSymbols) {
  test::TemporaryFolder folder;
  test::write_file(folder / "1", "abc");
  test::write_file(folder / "2", "");
  test::write_file(folder / "3", std::string("\0\xff", 2));
  const ByteDataset data({folder.path()}, true);
  expect_reads(data, std::string("abc|\0\xff|", 7));
  EXPECT_EQ(data.document_at(3).file, 0u);
  EXPECT_EQ(data.document_at(4).file, 2u);
}

TEST(ByteDatasetTest, AManifestTellsTheDocumentsOfAFile) {
  test::TemporaryFolder folder;
  test::write_file(folder / "a.bin", "onetwothree");
  Manifest manifest{.kind = "text", .settings = {}, .bytes = 11, .items = {}, .skipped = {}};
  manifest.items = {{"1", 3, 0, 0, 3}, {"2", 3, 0, 3, 3}, {"3", 5, 0, 6, 5}};
  test::write_file(folder / "a.bin.json", to_json(manifest));
  test::write_file(folder / "b", "{}");
  test::write_file(folder / "b.json", "{}");  // no manifest, so it is data
  expect_reads(ByteDataset({folder.path()}, true), "one|two|three|{}|{}|");
  expect_reads(ByteDataset({folder.path()}), "onetwothree{}{}");
  expect_reads(ByteDataset({folder / "a.bin"}, true), "one|two|three|");
  EXPECT_EQ(ByteDataset({folder / "a.bin.json"}).files().size(), 1u);  // asked for by itself
  test::write_file(folder / "a.bin", "shorter");
  EXPECT_THAT(test::error_of([&] { ByteDataset({folder / "a.bin"}, true); }),
              AllOf(HasSubstr("a.bin has 7 bytes"), HasSubstr("tells of 11")));
}

TEST(ByteDatasetTest, HeldOutPartIsTheLastTwentieth) {
  test::TemporaryFolder folder;
  test::write_file(folder / "file", std::string(1019, 'x'));
  const auto [training, held_out] = split_held_out(ByteDataset({folder / "file"}));
  EXPECT_EQ(training.begin, 0u);
  EXPECT_EQ(training.end, held_out.begin);
  EXPECT_EQ(held_out.size(), 50u);
  EXPECT_EQ(held_out.end, 1019u);
  const auto aligned = split_held_out(ByteDataset({folder / "file"}), 100);
  EXPECT_EQ(aligned.first.end, 900u);
  EXPECT_EQ(aligned.second.begin, 900u);
}

TEST(ByteDatasetTest, FilesKeepToTheAlignment) {
  test::TemporaryFolder folder;
  test::write_file(folder / "1", "123456");
  test::write_file(folder / "2", "1234");
  const ByteDataset data({folder.path()});
  EXPECT_NO_THROW(check_aligned(data, 2));
  EXPECT_THAT(test::error_of([&] { check_aligned(data, 3); }),
              AllOf(HasSubstr("/2 has 4 bytes"), HasSubstr("--align 3")));
}

TEST(ByteDatasetTest, Errors) {
  test::TemporaryFolder folder;
  const auto complaint = [](const std::vector<std::string>& paths) {
    return test::error_of([&] { ByteDataset{paths}; });
  };
  EXPECT_THAT(complaint({}), HasSubstr("no files"));
  EXPECT_THAT(complaint({folder.path()}), HasSubstr("no files"));
  EXPECT_THAT(complaint({folder / "none"}), HasSubstr("No such file"));
  test::write_file(folder / "empty", "");
  EXPECT_THAT(complaint({folder / "empty"}), AllOf(HasSubstr("empty has no bytes")));
}

TEST(ByteDatasetTest, FilesThatChange) {
  test::TemporaryFolder folder;
  test::write_file(folder / "file", "0123456789");
  const ByteDataset data({folder / "file"});
  EXPECT_EQ(read(data, 2, 3), "234");
  test::write_file(folder / "file", "0123456789abc");
  EXPECT_EQ(read(data, 5, 5), "56789");
  fs::resize_file(folder / "file", 4);
  EXPECT_THAT(test::error_of([&] { read(data, 8, 1); }),
              HasSubstr("shortened while it was in use: it had 10 bytes and has 4 now"));
  fs::remove(folder / "file");
  EXPECT_THAT(test::error_of([&] { read(data, 0, 1); }), HasSubstr("No such file"));
}

// More files than may be mapped at a time or held open.
TEST(ByteDatasetTest, ThousandsOfFiles) {
  test::TemporaryFolder folder;
  constexpr size_t kFiles = 5000;
  for (size_t i = 0; i < kFiles; ++i)
    test::write_file(folder / fmt::format("{:05}", i), fmt::format("{:05}", i));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{64, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const ByteDataset data({folder.path()});
  const std::string whole = read(data, 0, 5 * kFiles);
  for (size_t i = 0; i < kFiles; ++i) EXPECT_EQ(whole.substr(5 * i, 5), fmt::format("{:05}", i));
  EXPECT_EQ(read(data, 3, 5), "00000");
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(ByteDatasetTest, SeveralThreads) {
  test::TemporaryFolder folder;
  for (int i = 0; i < 20; ++i)
    test::write_file(folder / std::to_string(i), std::string(100, static_cast<char>('a' + i)));
  const ByteDataset data({folder.path()});
  const std::string whole = read(data, 0, 2000);
  std::vector<std::string> parts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < parts.size(); ++t)
    threads.emplace_back([&, t] { parts[t] = read(data, 100 * t, 1500); });
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < parts.size(); ++t) EXPECT_EQ(parts[t], whole.substr(100 * t, 1500));
}

}  // namespace
}  // namespace megabyte
