#include "data/paths.h"

#include <sys/stat.h>

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
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
