#include "data/batches.h"

#include <algorithm>
#include <set>

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class BatchesTest : public testing::Test {
 protected:
  BatchesTest() {
    std::string content(1000, '\0');
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7);
    test::write_file(folder_ / "1", content.substr(0, 333));
    test::write_file(folder_ / "2", content.substr(333));
    data_ = std::make_unique<ByteDataset>(std::vector<std::string>{folder_.path()});
  }

  std::vector<uint16_t> batch(uint64_t seed, uint64_t step) const {
    std::vector<uint16_t> tokens(static_cast<size_t>(shape_.rows * shape_.length));
    fill_batch(*data_, range_, shape_, seed, step, tokens.data());
    return tokens;
  }

  test::TemporaryFolder folder_;
  std::unique_ptr<ByteDataset> data_;
  ByteRange range_{100, 950};
  BatchShape shape_{.rows = 5, .length = 64, .vocab = 256};
};

TEST_F(BatchesTest, WindowsLieInTheirRangeAndReachItsEnds) {
  std::set<uint64_t> begins;
  for (uint64_t step = 0; step < 500; ++step)
    for (int64_t row = 0; row < 4; ++row) begins.insert(window_begin({10, 30}, 16, 1, step, row));
  EXPECT_EQ(begins, (std::set<uint64_t>{10, 11, 12, 13, 14}));
  EXPECT_EQ(window_begin({10, 26}, 16, 1, 0, 0), 10u);  // the only one
}

TEST_F(BatchesTest, WindowsBeginAtMultiples) {
  std::set<uint64_t> begins;
  for (uint64_t step = 0; step < 500; ++step)
    begins.insert(window_begin({8, 30}, 7, 1, step, 0, 4));
  EXPECT_EQ(begins, (std::set<uint64_t>{8, 12, 16, 20}));  // 24 + 7 is beyond the end
  EXPECT_EQ(window_begin({8, 15}, 7, 1, 0, 0, 4), 8u);

  shape_.align = 10;
  const std::vector<uint16_t> tokens = batch(1, 5);
  for (int64_t row = 0; row < shape_.rows; ++row) {
    const uint64_t begin = window_begin(range_, shape_.length, 1, 5, row, 10);
    EXPECT_EQ(begin % 10, 0u);
    EXPECT_EQ(tokens[static_cast<size_t>(row * shape_.length)], begin * 7 % 256);
  }
}

TEST_F(BatchesTest, RowsAreTheBytesOfTheirWindows) {
  const std::vector<uint16_t> tokens = batch(3, 17);
  for (int64_t row = 0; row < shape_.rows; ++row) {
    const uint64_t begin = window_begin(range_, shape_.length, 3, 17, row);
    for (int64_t i = 0; i < shape_.length; ++i)
      EXPECT_EQ(tokens[static_cast<size_t>(row * shape_.length + i)],
                (begin + static_cast<uint64_t>(i)) * 7 % 256);
  }
}

TEST_F(BatchesTest, SeedAndStepSayEverything) {
  EXPECT_EQ(batch(1, 5), batch(1, 5));
  EXPECT_NE(batch(1, 5), batch(1, 6));
  EXPECT_NE(batch(1, 5), batch(2, 5));
  // Rows differ from each other, too, and a step's first rows do not depend on how many follow.
  std::set<uint64_t> begins;
  for (int64_t row = 0; row < 5; ++row) begins.insert(window_begin({0, 1u << 30}, 64, 1, 5, row));
  EXPECT_EQ(begins.size(), 5u);
}

TEST_F(BatchesTest, DataShorterThanAWindow) {
  EXPECT_NO_THROW(check_window({0, 64}, 64, "the data"));
  EXPECT_THAT(test::error_of([&] {
                check_window({0, 63}, 64, "the data");
              }),
              AllOf(HasSubstr("the data has 63 bytes"), HasSubstr("one window of 64")));
  EXPECT_THROW(BatchLoader(*data_, {0, 63}, shape_, 1, 0, 1), Error);
}

TEST_F(BatchesTest, BytesBeyondTheVocabulary) {
  shape_.vocab = 128;
  EXPECT_THAT(test::error_of([&] { batch(1, 1); }),
              AllOf(HasSubstr(folder_.path().string()), HasSubstr("knows only 128 symbols")));
}

TEST_F(BatchesTest, LoaderGivesTheSameBatches) {
  BatchLoader loader(*data_, range_, shape_, 9, 20, 40);
  for (uint64_t step = 20; step < 40; ++step) EXPECT_EQ(loader.next(), batch(9, step)) << step;
  EXPECT_THROW(loader.next(), Error);
  BatchLoader resumed(*data_, range_, shape_, 9, 33, 40);
  EXPECT_EQ(resumed.next(), batch(9, 33));
}

TEST_F(BatchesTest, LoaderStopsAtAnyTime) {
  for (int used = 0; used < 5; ++used) {
    BatchLoader loader(*data_, range_, shape_, 9, 0, UINT64_MAX);
    for (int i = 0; i < used; ++i) loader.next();
  }
}

TEST_F(BatchesTest, LoaderPassesErrorsOn) {
  BatchLoader loader(*data_, range_, shape_, 9, 0, UINT64_MAX);
  loader.next();
  fs::resize_file(folder_ / "2", 0);
  // One batch may have been read before the file was cut.
  EXPECT_THAT(test::error_of([&] {
                for (int i = 0; i < 100; ++i) loader.next();
              }),
              HasSubstr("shortened"));
  EXPECT_THROW(loader.next(), Error);
}

}  // namespace
}  // namespace megabyte
