#include "train/training_data.h"

#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

using testing::HasSubstr;

class TrainingDataTest : public testing::Test {
 protected:
  TrainingDataTest() {
    std::string content(4000, '\0');  // records of 8 bytes: a count from 0 in each
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i % 8);
    test::write_file(folder_ / "data", content);
    settings_.data = {folder_ / "data"};
  }

  // Of a model of one stage.
  static Config config(int64_t context, int64_t vocab = 256) {
    return {.vocab_size = vocab, .stages = {{.length = context}}};
  }

  test::TemporaryFolder folder_;
  TrainSettings settings_;
};

TEST_F(TrainingDataTest, HeldOutRowsAreSpreadEvenly) {
  const TrainingData data(settings_, config(50));
  EXPECT_EQ(data.train_bytes(), 3800);
  const Rows rows = data.held_out_rows(100);
  EXPECT_EQ(rows.length, 50);
  EXPECT_EQ(rows.tokens.size(), 100u);  // windows 0 and 2 of four
  EXPECT_EQ(rows.tokens[50], 100 % 8);
  EXPECT_EQ(data.held_out_rows(1000).tokens.size(), 200u);
  EXPECT_EQ(TrainingData(settings_, config(300)).held_out_rows(1000).length, 200);
  EXPECT_THAT(test::error_of([&] { TrainingData(settings_, config(50, 7)).held_out_rows(100); }),
              HasSubstr("byte 7"));
}

TEST_F(TrainingDataTest, EndsOfDocumentsAreSymbolsWhereTheModelKnowsThem) {
  settings_.valid = {folder_ / "data"};
  const TrainingData data(settings_, config(64, 257));
  EXPECT_EQ(data.train_bytes(), 4001);
  settings_.valid.clear();
  EXPECT_EQ(TrainingData(settings_, config(201, 257)).held_out_rows(201).tokens.back(), 256);
  settings_.align = 8;
  EXPECT_THAT(test::error_of([&] { TrainingData(settings_, config(64, 257)); }),
              HasSubstr("--align"));
}

TEST_F(TrainingDataTest, RecordsStayWhole) {
  settings_.align = 8;
  for (const int64_t context : {8, 12, 20, 32}) {
    const TrainingData data(settings_, config(context));
    EXPECT_EQ(data.train_range().end % 8, 0u);
    const Rows rows = data.held_out_rows(1 << 20);
    for (size_t i = 0; i < rows.tokens.size(); i += static_cast<size_t>(rows.length))
      EXPECT_EQ(rows.tokens[i], 0) << context;
    EXPECT_EQ(static_cast<int64_t>(rows.tokens.size()) / rows.length,
              (data.valid_bytes() - context) / ((context + 7) / 8 * 8) + 1);
  }
  settings_.align = 7;
  EXPECT_THAT(test::error_of([&] { TrainingData(settings_, config(8)); }),
              HasSubstr("no multiple"));
  settings_.align = 8;
  settings_.valid = {folder_ / "valid"};
  test::write_file(folder_ / "valid", "123");
  EXPECT_THAT(test::error_of([&] { TrainingData(settings_, config(8)); }),
              HasSubstr("valid has 3 bytes"));
}

}  // namespace
}  // namespace megabyte
