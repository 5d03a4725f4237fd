#include "io/mapped_file.h"

#include <sys/stat.h>

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(MappedFileTest, HoldsTheBytes) {
  test::TemporaryFolder folder;
  test::write_file(folder / "file", std::string("a\0b", 3));
  MappedFile first(folder / "file");
  const MappedFile mapped(std::move(first));
  ASSERT_EQ(mapped.bytes().size(), 3u);
  EXPECT_EQ(mapped.bytes()[1], std::byte{0});
  EXPECT_EQ(mapped.bytes()[2], std::byte{'b'});
}

TEST(MappedFileTest, EmptyFile) {
  test::TemporaryFolder folder;
  test::write_file(folder / "file", "");
  EXPECT_TRUE(MappedFile(folder / "file").bytes().empty());
}

TEST(MappedFileTest, Errors) {
  test::TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  const auto complaint = [](const std::string& file) {
    return test::error_of([&] { MappedFile{file}; });
  };
  EXPECT_THAT(complaint(folder / "none"), AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(complaint(folder.path()), HasSubstr("not a regular file"));
  EXPECT_THAT(complaint(folder / "pipe"), HasSubstr("not a regular file"));  // and does not wait
}

}  // namespace
}  // namespace megabyte
