#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/command.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

using test::CommandResult;
using test::run_megabyte;
using test::TemporaryFolder;
using test::write_file;

class EvalCommand : public testing::Test {
 protected:
  void SetUp() override {
    test::save_random_model("cross_patch", folder_ / "model");
    write_file(folder_ / "a", std::string("\0\0 two words \xff and more than one context..", 42));
    std::filesystem::create_directories(folder_ / "data/inner");
    write_file(folder_ / "data/b", "short");
    write_file(folder_ / "data/inner/c", std::string(100, 'x'));
    write_file(folder_ / "empty", "");
  }

  CommandResult run(std::vector<std::string> arguments, const std::string& model = "model") const {
    arguments.insert(arguments.begin(), {"eval", "--model", folder_ / model});
    return run_megabyte(arguments);
  }
  nlohmann::json run_json(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const CommandResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }
  void expect_error(const std::vector<std::string>& arguments, int code, const std::string& message,
                    const std::string& model = "model") const {
    const CommandResult result = run(arguments, model);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }

  TemporaryFolder folder_;
};

TEST_F(EvalCommand, OneFileWithEveryMethod) {
  int cost = 42;  // bytes run: the other methods run some twice
  for (const std::string method : {"basic", "sliding", "strided", "sliding-strided"}) {
    const nlohmann::json result = run_json({"--data", folder_ / "a", "--method", method});
    EXPECT_EQ(result.at("bytes"), 42);
    EXPECT_EQ(result.at("method"), method);
    EXPECT_GT(result.at("bpb"), 0);
    EXPECT_GE(result.at("seconds"), 0);
    EXPECT_FALSE(result.contains("files"));
    EXPECT_GE(result.at("forward_bytes"), cost);
    cost = 43;
  }
}

TEST_F(EvalCommand, FilesAndFoldersAreSequencesOfTheirOwn) {
  const nlohmann::json all =
      run_json({"--data", folder_ / "data", folder_ / "a", folder_ / "empty"});
  ASSERT_EQ(all.at("files").size(), 3u);
  double bits = 0;
  for (const nlohmann::json& file : all.at("files")) {
    const nlohmann::json alone = run_json({"--data", file.at("file")});
    EXPECT_EQ(alone.at("bytes"), file.at("bytes"));
    EXPECT_NEAR(alone.at("bpb"), file.at("bpb"), 1e-4);
    bits += alone.at("bpb").get<double>() * alone.at("bytes").get<double>();
  }
  EXPECT_EQ(all.at("bytes"), 147);
  EXPECT_NEAR(all.at("bpb"), bits / 147, 1e-4);
}

TEST_F(EvalCommand, TheBatchChangesNothing) {
  const std::string file = folder_ / "data/inner/c";
  const double one = run_json({"--data", file, "--batch", "1"}).at("bpb");
  EXPECT_NEAR(run_json({"--data", file, "--batch", "3"}).at("bpb"), one, 1e-5);
}

TEST_F(EvalCommand, LimitScoresTheFirstBytesOfAll) {
  const nlohmann::json result = run_json({"--data", folder_ / "data", "--limit", "12"});
  EXPECT_EQ(result.at("bytes"), 12);
  EXPECT_EQ(result.at("files").at(0).at("bytes"), 5);
  EXPECT_EQ(result.at("files").at(1).at("bytes"), 7);
}

TEST_F(EvalCommand, ByPositionAveragesToTheWhole) {
  const nlohmann::json result = run_json({"--data", folder_ / "data/inner/c", "--by-position"});
  ASSERT_EQ(result.at("by_position").size(), 4u);  // bytes of a patch
  double sum = 0;
  for (const double bpb : result.at("by_position")) sum += bpb / 4;
  EXPECT_NEAR(sum, result.at("bpb"), 1e-9);
  // Of a file of one byte, only the first place is known.
  write_file(folder_ / "one", "x");
  const nlohmann::json one = run_json({"--data", folder_ / "one", "--by-position"});
  EXPECT_EQ(one.at("by_position").at(0), one.at("bpb"));
  EXPECT_TRUE(one.at("by_position").at(1).is_null());
}

TEST_F(EvalCommand, WordPerplexity) {
  write_file(folder_ / "text", "four words of text\n");
  const nlohmann::json result = run_json({"--data", folder_ / "text", "--word-perplexity"});
  EXPECT_EQ(result.at("words"), 4);
  const double bits = result.at("bpb").get<double>() * 19;
  EXPECT_NEAR(std::log2(result.at("word_perplexity").get<double>()), bits / 4, 1e-6);
  write_file(folder_ / "blank", "  \n");
  expect_error({"--data", folder_ / "blank", "--word-perplexity"}, 1, "no words");
}

TEST_F(EvalCommand, PlainTextForPeople) {
  const CommandResult result =
      run({"--data", folder_ / "data", "--by-position", "--word-perplexity"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const std::string part : {"bits per byte over 105 bytes", "method basic", "perplexity",
                                 "place in the patch", "data/inner/c"})
    EXPECT_NE(result.out.find(part), std::string::npos) << result.out;
}

TEST_F(EvalCommand, BadUsageAndBadInputSayWhatToDo) {
  expect_error({"--data", folder_ / "absent"}, 1, "absent");
  expect_error({"--data", folder_ / "empty"}, 1, "empty");
  expect_error({"--data", folder_ / "a"}, 1, "absent", "absent");
  expect_error({"--data", folder_ / "a", "--method", "best"}, 2, "--method");
  expect_error({"--data", folder_ / "a", "--batch", "-1"}, 2, "--batch");
  expect_error({"--data", folder_ / "a", "--limit", "-1"}, 2, "--limit");
  expect_error({}, 2, "--data");
  test::save_random_model("byte_transformer", folder_ / "one-stage");
  expect_error({"--data", folder_ / "a", "--method", "strided"}, 1, "--method sliding",
               "one-stage");
}

}  // namespace
}  // namespace megabyte
