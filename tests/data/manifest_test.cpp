#include "data/manifest.h"

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ManifestTest : public testing::Test {
 protected:
  ManifestTest() {
    manifest_.kind = "images";
    manifest_.settings = {{"scan", "raster"}, {"width", 2}};
    manifest_.bytes = 10;
    manifest_.items = {{"a.png", 99, 0xdeadbeef, 0, 6}, {"../b \"c\".png", 7, 1, 6, 4}};
    manifest_.skipped = {{"broken.png", "it is damaged"}};
    test::write_file(folder_ / "data.bin", "0123456789");
  }
  void save() { test::write_file(folder_ / "data.bin.json", to_json(manifest_)); }
  std::string complaint() {
    return test::error_of([&] { load_manifest(folder_ / "data.bin"); });
  }

  test::TemporaryFolder folder_;
  Manifest manifest_;
};

TEST_F(ManifestTest, ComesBackAsItWas) {
  EXPECT_FALSE(load_manifest(folder_ / "data.bin"));
  save();
  const auto back = load_manifest(folder_ / "data.bin");
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, "images");
  EXPECT_EQ(back->settings, manifest_.settings);
  EXPECT_EQ(back->items[0].crc32, 0xdeadbeef);
  EXPECT_EQ(back->items[1].source, "../b \"c\".png");
  EXPECT_EQ(back->items[1].begin, 6u);
  EXPECT_EQ(back->skipped[0].reason, "it is damaged");
  EXPECT_EQ(to_json(*back), to_json(manifest_));
}

TEST_F(ManifestTest, OneThatDoesNotFitIsAnError) {
  save();
  test::write_file(folder_ / "data.bin", "012345678");
  EXPECT_THAT(complaint(), AllOf(HasSubstr("data.bin has 9 bytes"), HasSubstr("tells of 10")));
  test::write_file(folder_ / "data.bin", "0123456789");
  manifest_.items[1].begin = 5;
  save();
  EXPECT_THAT(complaint(), HasSubstr("do not follow"));
  manifest_.items[1] = {"b", 7, 1, 6, 3};
  save();
  EXPECT_THAT(complaint(), HasSubstr("9 bytes of 10"));
  manifest_.items[1] = {"b", 7, 1, 6, ~uint64_t{0} - 2};
  save();
  EXPECT_THAT(complaint(), HasSubstr("do not follow"));
  for (const char* text :
       {"{}", "[]", R"({"kind": "text", "bytes": 10, "settings": {}, "items": 3})"}) {
    test::write_file(folder_ / "data.bin.json", text);
    EXPECT_THAT(complaint(), AllOf(HasSubstr("data.bin.json"), HasSubstr("no manifest"))) << text;
  }
  test::write_file(folder_ / "data.bin.json", "{");
  EXPECT_THAT(complaint(), HasSubstr("data.bin.json"));
}

}  // namespace
}  // namespace megabyte
