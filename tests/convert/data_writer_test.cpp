#include "convert/data_writer.h"

#include "support/command.h"
#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class DataWriterTest : public testing::Test {
 protected:
  void add(DataWriter& writer, const std::string& source, const std::vector<uint8_t>& bytes) {
    writer.add(source, test::bytes_of("123456789"), bytes);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }

  test::TemporaryFolder folder_;
};

TEST_F(DataWriterTest, WritesBytesAndWhereTheyCameFrom) {
  DataWriter writer(folder_ / "out.bin", false, "audio", {{"rate", 8000}});
  add(writer, folder_ / "in/a.wav", {1, 2, 3});
  writer.skip(folder_ / "in/b.wav", "it is damaged");
  add(writer, folder_ / "c.wav", {4});
  EXPECT_FALSE(fs::exists(folder_ / "out.bin"));
  writer.commit();
  EXPECT_EQ(test::read_file(folder_ / "out.bin"), "\1\2\3\4");
  const auto manifest = load_manifest(folder_ / "out.bin");
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->kind, "audio");
  EXPECT_EQ(manifest->settings.at("rate"), 8000);
  ASSERT_EQ(manifest->items.size(), 2u);
  EXPECT_EQ(manifest->items[0].source, "in/a.wav");
  EXPECT_EQ(manifest->items[0].source_bytes, 9u);
  EXPECT_EQ(manifest->items[0].crc32, 0xcbf43926);  // the check value of CRC-32
  EXPECT_EQ(manifest->items[1].source, "c.wav");
  EXPECT_EQ(manifest->items[1].begin, 3u);
  ASSERT_EQ(manifest->skipped.size(), 1u);
  EXPECT_EQ(manifest->skipped[0].source, "in/b.wav");
}

TEST_F(DataWriterTest, NothingIsLeftHalfWritten) {
  {
    DataWriter writer(folder_ / "out.bin", false, "text", {});
    add(writer, "a", {1, 2, 3});
  }
  EXPECT_THAT(names(), testing::IsEmpty());
  {
    DataWriter writer(folder_ / "out.bin", false, "text", {});
    writer.skip("a", "why");
    EXPECT_THAT(test::error_of([&] { writer.commit(); }), HasSubstr("all files were skipped"));
  }
  {
    DataWriter writer(folder_ / "out.bin", false, "text", {});
    EXPECT_THAT(test::error_of([&] { writer.commit(); }), HasSubstr("--include"));
  }
  EXPECT_THAT(names(), testing::IsEmpty());
}

TEST_F(DataWriterTest, ReplacesOnlyWhenAsked) {
  for (const char* name : {"out.bin", "out.bin.json"}) {
    test::write_file(folder_ / name, "old");
    EXPECT_THAT(test::error_of([&] { DataWriter(folder_ / "out.bin", false, "text", {}); }),
                HasSubstr("--overwrite"));
    EXPECT_EQ(test::read_file(folder_ / name), "old");
    fs::remove(folder_ / name);
  }
  test::write_file(folder_ / "out.bin", "old");
  DataWriter writer(folder_ / "out.bin", true, "text", {});
  add(writer, "a", {7});
  writer.commit();
  EXPECT_EQ(test::read_file(folder_ / "out.bin"), "\7");
  EXPECT_THAT(names(), testing::ElementsAre("out.bin", "out.bin.json"));
  EXPECT_THAT(test::error_of([&] { DataWriter(folder_.path(), true, "text", {}); }),
              HasSubstr("is a folder"));
}

}  // namespace
}  // namespace megabyte
