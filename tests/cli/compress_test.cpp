#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/command.h"
#include "support/device.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;

using test::CommandResult;
using test::read_file;
using test::run_megabyte;
using test::TemporaryFolder;
using test::write_file;

class CompressCommand : public testing::Test {
 protected:
  void SetUp() override {
    test::save_random_model("cross_patch", folder_ / "model");
    // What the model expects, so that there is something to gain.
    text_ = run_megabyte({"generate", "--model", folder_ / "model", "--device", "exact", "--bytes",
                          "1500", "--temperature", "0.5"})
                .out;
    ASSERT_EQ(text_.size(), 1500u);
    write_file(folder_ / "text", text_);
  }
  // With --model and two threads; expects success.
  std::string run(std::vector<std::string> words, const std::string& input = "") const {
    words.insert(words.end(), {"--model", folder_ / "model", "--threads", "2"});
    const CommandResult result = run_megabyte(words, input);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
  static void refused(const std::vector<std::string>& words, const std::string& message,
                      int code = 1) {
    const CommandResult result = run_megabyte(words);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }

  TemporaryFolder folder_;
  std::string text_;
};

TEST_F(CompressCommand, FilesGoThereAndBack) {
  run({"compress", folder_ / "text"});
  EXPECT_LT(fs::file_size(folder_ / "text.mbz"), text_.size());
  fs::remove(folder_ / "text");
  run({"decompress", folder_ / "text.mbz"});
  EXPECT_EQ(read_file(folder_ / "text"), text_);
  EXPECT_EQ(files(), 3u);  // with the model: nothing else is left
  run({"verify", folder_ / "text.mbz"});
  run({"compress", folder_ / "text", "-o", folder_ / "again", "--verify"});
  EXPECT_EQ(read_file(folder_ / "again"), read_file(folder_ / "text.mbz"));
}

TEST_F(CompressCommand, StdinAndStdoutWork) {
  const std::string archive = run({"compress", "-"}, text_);
  run({"compress", folder_ / "text"});
  EXPECT_EQ(read_file(folder_ / "text.mbz"), archive);
  EXPECT_EQ(run({"decompress", "-"}, archive), text_);
  EXPECT_EQ(run({"decompress", folder_ / "text.mbz", "-o", "-"}), text_);
  EXPECT_EQ(run({"decompress", "-", "--range", "100:1200"}, archive), text_.substr(100, 1100));
  EXPECT_EQ(run({"decompress", "-", "--range", ":5"}, archive), text_.substr(0, 5));
  EXPECT_EQ(run({"decompress", "-", "--range", "1495:"}, archive), text_.substr(1495));
  EXPECT_EQ(run({"decompress", "-"}, run({"compress", "-"}, "")), "");
}

TEST_F(CompressCommand, AModelInsideNeedsNoOther) {
  run({"compress", folder_ / "text", "--embed-model"});
  fs::remove_all(folder_ / "model");
  const CommandResult result = run_megabyte({"decompress", folder_ / "text.mbz", "-o", "-"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, text_);
}

TEST_F(CompressCommand, ListSaysWhatAnArchiveIs) {
  run({"compress", folder_ / "text"});
  const CommandResult json = run_megabyte({"list", folder_ / "text.mbz", "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const auto listed = nlohmann::json::parse(json.out);
  EXPECT_EQ(listed.at("original_bytes"), 1500);
  EXPECT_EQ(listed.at("archive_bytes"), fs::file_size(folder_ / "text.mbz"));
  EXPECT_EQ(listed.at("streams"), 1);
  EXPECT_EQ(listed.at("stored_streams"), 0);
  EXPECT_EQ(listed.at("model_bytes_inside"), 0);
  EXPECT_EQ(listed.at("model_sha256").get<std::string>().size(), 64u);
  const CommandResult text = run_megabyte({"list", folder_ / "text.mbz"});
  EXPECT_NE(text.out.find(listed.at("model_sha256").get<std::string>()), std::string::npos);
  write_file(folder_ / "x", "x");
  run({"compress", folder_ / "x"});
  EXPECT_NE(run_megabyte({"list", folder_ / "x.mbz"}).out.find("everything is stored"),
            std::string::npos);
}

TEST_F(CompressCommand, NothingIsWrittenOverUnasked) {
  write_file(folder_ / "text.mbz", "older");
  refused({"compress", folder_ / "text", "--model", folder_ / "model"}, "--force");
  EXPECT_EQ(read_file(folder_ / "text.mbz"), "older");
  run({"compress", folder_ / "text", "--force"});
  refused({"decompress", folder_ / "text.mbz", "--model", folder_ / "model"}, "--force");
  run({"decompress", folder_ / "text.mbz", "--force"});
  EXPECT_EQ(read_file(folder_ / "text"), text_);
}

TEST_F(CompressCommand, WhatCannotBeDecodedIsOneLineAndNoFile) {
  run({"compress", folder_ / "text"});
  fs::remove(folder_ / "text");
  const std::string archive = read_file(folder_ / "text.mbz");
  const auto damaged = [&](const std::string& content, const std::string& message) {
    write_file(folder_ / "bad.mbz", content);
    refused({"decompress", folder_ / "bad.mbz", "--model", folder_ / "model"}, message);
    refused({"verify", folder_ / "bad.mbz", "--model", folder_ / "model"}, message);
    EXPECT_FALSE(fs::exists(folder_ / "bad"));
    EXPECT_FALSE(fs::exists(folder_ / "bad.tmp"));
  };
  damaged("", "no archive");
  damaged("some text that was never compressed", "no archive");
  damaged(archive.substr(0, archive.size() / 2), "cut short");
  damaged(archive + "x", "follows its end");
  std::string flipped = archive;
  flipped[archive.size() / 2] = static_cast<char>(flipped[archive.size() / 2] ^ 4);
  damaged(flipped, "bytes 0 to 1500");

  test::save_random_model("vocab_257", folder_ / "other");
  refused({"decompress", folder_ / "text.mbz", "--model", folder_ / "other"}, "another model");
  refused({"decompress", folder_ / "text.mbz", "--model", folder_ / "absent"}, "holds no model");
  EXPECT_FALSE(fs::exists(folder_ / "text"));
}

TEST_F(CompressCommand, BadUsageSaysWhatToDo) {
  const std::string model = folder_ / "model";
  refused({"compress", folder_ / "absent", "--model", model}, "absent");
  refused({"compress", folder_.path().string(), "--model", model}, "not a regular file");
  refused({"compress", folder_ / "text", "--model", folder_ / "absent"}, "holds no model");
  refused({"decompress", folder_ / "text", "--model", model}, "name the output with -o", 2);
  run({"compress", folder_ / "text"});
  const std::string archive = folder_ / "text.mbz";
  refused({"decompress", archive, "--range", "0:5", "--model", model}, "-o", 2);
  for (const std::string range : {"5", "a:b", "1:2:3", "-1:5"})
    refused({"decompress", archive, "-o", "-", "--range=" + range, "--model", model}, "FROM:TO", 2);
  for (const std::string range : {"5:4", "0:1501"})
    refused({"decompress", archive, "-o", "-", "--range", range, "--model", model}, "--range");
  if (!test::why_no_cuda().empty())
    refused({"compress", folder_ / "text", "--model", model, "--device", "cuda", "--force"},
            "use --device");
  EXPECT_EQ(run_megabyte({"compress"}).exit_code, 2);
  EXPECT_EQ(files(), 3u);
}

TEST_F(CompressCommand, AnInterruptLeavesNothing) {
  write_file(folder_ / "long", std::string(5'000'000, 'a'));
  test::RunningMegabyte command(
      {"compress", folder_ / "long", "--model", folder_ / "model", "--threads", "1"});
  while (!fs::exists(folder_ / "long.mbz.tmp")) ASSERT_TRUE(command.running());
  command.send(SIGTERM);
  const CommandResult result = command.wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("interrupted"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(folder_ / "long.mbz"));
  EXPECT_FALSE(fs::exists(folder_ / "long.mbz.tmp"));
}

TEST_F(CompressCommand, AFileAboveTheSystemsLimitIsOneLineAndNoFile) {
  run({"compress", folder_ / "text"});
  fs::remove(folder_ / "text");
  write_file(folder_ / "other", text_);
  for (const bool to_file : {true, false})
    for (const auto& [word, in] : {std::pair{"compress", "other"}, {"decompress", "text.mbz"}}) {
      const std::string out = to_file ? folder_ / "out" : "-";
      const CommandResult result =
          test::RunningMegabyte({word, folder_ / in, "-o", out, "--model", folder_ / "model"}, "",
                                200)
              .wait();
      EXPECT_EQ(result.exit_code, 1) << word;
      EXPECT_NE(result.err.find("File too large"), std::string::npos) << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      EXPECT_EQ(files(), 3u);
    }
}

TEST_F(CompressCommand, ScoringTellsTheSizeBeforehand) {
  std::string text;  // several streams
  while (text.size() < 40000) text += text_;
  write_file(folder_ / "long", text);
  run({"compress", folder_ / "long", "-o", folder_ / "long.mbz"});
  const CommandResult score =
      run_megabyte({"eval", "--model", folder_ / "model", "--data", folder_ / "long", "--device",
                    "exact", "--method", "archive", "--json"});
  ASSERT_EQ(score.exit_code, 0) << score.err;
  const double predicted = nlohmann::json::parse(score.out).at("archive_bytes");
  const auto archive = static_cast<double>(fs::file_size(folder_ / "long.mbz"));
  EXPECT_LT(archive, static_cast<double>(text.size()));
  EXPECT_NEAR(predicted, archive, 0.001 * archive);
}

}  // namespace
}  // namespace megabyte
