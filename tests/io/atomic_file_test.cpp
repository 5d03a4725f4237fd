#include "io/atomic_file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

TEST(AtomicFileTest, ReplacesAtCommitOnly) {
  test::TemporaryFolder folder;
  const std::string file = folder / "file";
  test::write_file(file, "old");
  {
    AtomicFile out(file);
    out.write("new");
    EXPECT_EQ(test::read_file(file), "old");
    out.commit();
    EXPECT_EQ(test::read_file(file), "new");
  }
  EXPECT_EQ(test::read_file(file), "new");
  EXPECT_FALSE(fs::exists(file + ".tmp"));
}

TEST(AtomicFileTest, WithoutCommitNothingChanges) {
  test::TemporaryFolder folder;
  const std::string file = folder / "file";
  test::write_file(file, "old");
  { AtomicFile(file).write("new"); }
  EXPECT_EQ(test::read_file(file), "old");
  EXPECT_FALSE(fs::exists(file + ".tmp"));
}

TEST(AtomicFileTest, ReplacesWhatAKilledWriterLeft) {
  test::TemporaryFolder folder;
  test::write_file(folder / "file.tmp", "half a file, longer than the new one");
  write_file_atomically(folder / "file", "new");
  EXPECT_EQ(test::read_file(folder / "file"), "new");
  EXPECT_FALSE(fs::exists(folder / "file.tmp"));
}

TEST(AtomicFileTest, NamesAreRelativeToTheCurrentFolder) {
  test::TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_file_atomically("file", "content");
  fs::current_path(before);
  EXPECT_EQ(test::read_file(folder / "file"), "content");
}

TEST(AtomicFileTest, ErrorsNameFileAndReason) {
  test::TemporaryFolder folder;
  const auto complaint = [](const std::string& file) {
    return test::error_of([&] { write_file_atomically(file, "x"); });
  };
  EXPECT_THAT(complaint(folder / "missing/file"),
              AllOf(HasSubstr("missing/file"), HasSubstr("No such file or directory")));
  EXPECT_THAT(complaint(folder.path()), HasSubstr("not a regular file"));
  EXPECT_THAT(complaint("/dev/null"), HasSubstr("not a regular file"));
}

// A limit on the size of files stands in for a full disk: write() fails in the same place.
TEST(AtomicFileTest, FullDiskLeavesTheOldFile) {
  test::TemporaryFolder folder;
  const std::string file = folder / "file";
  test::write_file(file, "old");
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{4096, 4096};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomically(file, std::string(100'000, 'x'));
    } catch (const Error& e) {
      const std::string_view message = e.what();
      _exit(message.find(file) != message.npos && message.find("unchanged") != message.npos ? 7
                                                                                            : 8);
    }
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(test::read_file(file), "old");
  EXPECT_FALSE(fs::exists(file + ".tmp"));
}

}  // namespace
}  // namespace megabyte
