#include "data/paths.h"

#include <sys/stat.h>

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class PathsTest : public testing::Test {
 protected:
  PathsTest() {
    fs::create_directories(folder_ / "b/deep");
    for (const char* name : {"a.txt", "b/2", "b/10", "b/.hidden", "b/deep/x.txt", "c.txt"})
      test::write_file(folder_ / name, name);
  }

  // Relative to the folder.
  std::vector<std::string> found(std::vector<std::string> paths) const {
    for (std::string& path : paths) path = folder_ / path;
    std::vector<std::string> names;
    for (const fs::path& file : find_files(paths))
      names.push_back(file.lexically_relative(folder_.path()).string());
    return names;
  }

  std::string complaint(const std::string& path) const {
    return test::error_of([&] { find_files({folder_ / path}); });
  }

  test::TemporaryFolder folder_;
};

TEST_F(PathsTest, FilesFoldersAndPatternsInSortedOrder) {
  EXPECT_THAT(found({"c.txt", "a.txt"}), ElementsAre("a.txt", "c.txt"));
  EXPECT_THAT(found({"b"}), ElementsAre("b/.hidden", "b/10", "b/2", "b/deep/x.txt"));
  EXPECT_THAT(found({"*.txt"}), ElementsAre("a.txt", "c.txt"));
  EXPECT_THAT(found({"b/d*"}), ElementsAre("b/deep/x.txt"));
  EXPECT_THAT(found({"b/deep/../../a.txt", "./a.txt", "a.*"}), ElementsAre("a.txt"));
}

TEST_F(PathsTest, AFilterHoldsInFoldersOnly) {
  test::write_file(folder_ / "b/PHOTO.PNG", "");
  const auto filtered = [&](std::vector<std::string> paths, const FileFilter& filter) {
    for (std::string& path : paths) path = folder_ / path;
    std::vector<std::string> names;
    for (const fs::path& file : find_files(paths, filter))
      names.push_back(file.lexically_relative(folder_.path()).string());
    return names;
  };
  EXPECT_THAT(filtered({"b"}, {.include = {"*.txt", "*.png"}}),
              ElementsAre("b/PHOTO.PNG", "b/deep/x.txt"));
  EXPECT_THAT(filtered({"b"}, {.exclude = {"dee?", "*.png", "2"}}),
              ElementsAre("b/.hidden", "b/10"));
  EXPECT_THAT(filtered({"b"}, {.exclude = {"deep"}, .hidden = false}),
              ElementsAre("b/10", "b/2", "b/PHOTO.PNG"));
  EXPECT_THAT(filtered({"c.txt", "b/.hidden"}, {.include = {"*.png"}, .hidden = false}),
              ElementsAre("b/.hidden", "c.txt"));
}

TEST_F(PathsTest, WhatCannotBeReadInAFolderMayBeLeftOut) {
  fs::create_symlink("nowhere", folder_ / "b/dangling");
  fs::create_symlink("..", folder_ / "b/deep/circle");
  std::vector<std::string> reasons;
  const FileFilter filter{.hidden = false,
                          .on_unreadable = [&](const fs::path& path, auto& reason) {
                            reasons.push_back(path.filename().string() + ": " + reason);
                          }};
  EXPECT_EQ(find_files({folder_ / "b"}, filter).size(), 3u);
  EXPECT_THAT(reasons, testing::UnorderedElementsAre(
                           AllOf(HasSubstr("dangling: "), HasSubstr("No such file")),
                           AllOf(HasSubstr("circle: "), HasSubstr("leads back"))));
  EXPECT_THROW(find_files({folder_ / "b"}), Error);
  EXPECT_THROW(find_files({folder_ / "absent"}, filter), Error);
}

TEST_F(PathsTest, AFileMayHaveThePatternsLetters) {
  test::write_file(folder_ / "a[1]*.txt", "x");
  EXPECT_THAT(found({"a[1]*.txt"}), ElementsAre("a[1]*.txt"));
}

TEST_F(PathsTest, LinksAreFollowed) {
  fs::create_symlink(folder_ / "b/deep", folder_ / "link");
  fs::create_symlink(folder_ / "a.txt", folder_ / "file-link");
  EXPECT_THAT(found({"link", "file-link"}), ElementsAre("file-link", "link/x.txt"));
  fs::create_directory_symlink(folder_.path(), folder_ / "b/deep/circle");
  EXPECT_THAT(complaint("b"), HasSubstr("leads back"));
}

TEST_F(PathsTest, NothingIsSkippedInSilence) {
  EXPECT_THAT(complaint("none"), HasSubstr("none: No such file or directory"));
  EXPECT_THAT(complaint("*.none"), HasSubstr("no file matches the pattern"));
  fs::create_symlink("nowhere", folder_ / "b/broken");
  EXPECT_THAT(complaint("b"), HasSubstr("broken"));
  fs::remove(folder_ / "b/broken");
  ASSERT_EQ(mkfifo((folder_ / "b/pipe").c_str(), 0600), 0);
  EXPECT_THAT(complaint("b"), HasSubstr("neither a regular file nor a folder"));
}

}  // namespace
}  // namespace megabyte
