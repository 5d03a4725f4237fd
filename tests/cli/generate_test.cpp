#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/command.h"
#include "support/configs.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

using test::CommandResult;
using test::read_file;
using test::run_megabyte;
using test::TemporaryFolder;
using test::write_file;
using testing::Test;

class GenerateCommand : public Test {
 protected:
  void SetUp() override { test::save_random_model("cross_patch", folder_ / "model"); }

  CommandResult run(std::vector<std::string> arguments, const std::string& input = "") const {
    arguments.insert(arguments.begin(), {"generate", "--model", folder_ / "model"});
    return run_megabyte(arguments, input);
  }
  std::string bytes(const std::vector<std::string>& arguments,
                    const std::string& input = "") const {
    const CommandResult result = run(arguments, input);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  TemporaryFolder folder_;
};

TEST_F(GenerateCommand, TheSameSeedGivesTheSameBytes) {
  const std::string a = bytes({"--bytes", "200", "--seed", "1"});
  EXPECT_EQ(a.size(), 200u);  // past the context of 24 bytes
  EXPECT_EQ(bytes({"--bytes", "200", "--seed", "1"}), a);
  EXPECT_NE(bytes({"--bytes", "200", "--seed", "2"}), a);
}

TEST_F(GenerateCommand, APromptIsContinuedAndEchoed) {
  const std::string plain = bytes({"--bytes", "20", "--prompt", "some words"});
  EXPECT_EQ(plain.size(), 20u);
  EXPECT_EQ(bytes({"--bytes", "20", "--prompt", "some words", "--echo"}), "some words" + plain);
  EXPECT_NE(bytes({"--bytes", "20", "--prompt", "other words"}), plain);
}

TEST_F(GenerateCommand, APromptIsAnyBytesFromAFileOrStdin) {
  const std::string prompt("\0a\xff\0\0 longer than the context of the model", 40);
  write_file(folder_ / "prompt", prompt);
  const std::string out = bytes({"--bytes", "10", "--prompt-file", folder_ / "prompt", "--echo"});
  EXPECT_EQ(out.substr(0, 40), prompt);
  EXPECT_EQ(out.size(), 50u);
  EXPECT_EQ(bytes({"--bytes", "10", "--prompt-file", "-", "--echo"}, prompt), out);
  // Of a prompt as long as this, only the end counts: 24 - 12 bytes are dropped at a time.
  EXPECT_EQ(
      bytes({"--bytes", "10", "--temperature", "0", "--prompt-file", "-"}, prompt),
      bytes({"--bytes", "10", "--temperature", "0", "--prompt-file", "-"}, prompt.substr(24)));
}

TEST_F(GenerateCommand, NoBytesIsTheEchoAlone) {
  EXPECT_EQ(bytes({"--bytes", "0", "--prompt", "ab", "--echo"}), "ab");
}

TEST_F(GenerateCommand, TemperatureZeroIsGreedyAndTopKOneIsToo) {
  const std::string greedy = bytes({"--bytes", "30", "--temperature", "0"});
  EXPECT_EQ(bytes({"--bytes", "30", "--temperature", "0", "--seed", "9"}), greedy);
  EXPECT_EQ(bytes({"--bytes", "30", "--top-k", "1", "--seed", "5"}), greedy);
  EXPECT_EQ(bytes({"--bytes", "30", "--top-p", "0.000001", "--seed", "5"}), greedy);
}

TEST_F(GenerateCommand, SamplesGoToFilesAndDoNotDependOnTheBatch) {
  for (const std::string batch : {"1", "2", "16"}) {
    const CommandResult result = run({"--samples", "5", "--bytes", "40", "--batch", batch, "--out",
                                      folder_ / ("out" + batch), "--json"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(nlohmann::json::parse(result.err).at("bytes"), 200);
  }
  for (int i = 0; i < 5; ++i) {
    const std::string name = "sample-00" + std::to_string(i) + ".bin";
    const std::string one = read_file(folder_ / ("out1/" + name));
    EXPECT_EQ(one.size(), 40u);
    EXPECT_EQ(read_file(folder_ / ("out2/" + name)), one);
    EXPECT_EQ(read_file(folder_ / ("out16/" + name)), one);
  }
  EXPECT_NE(read_file(folder_ / "out1/sample-000.bin"), read_file(folder_ / "out1/sample-001.bin"));
  EXPECT_EQ(read_file(folder_ / "out1/sample-000.bin"), bytes({"--bytes", "40"}));
}

TEST_F(GenerateCommand, SamplesAreNotWrittenOverUnasked) {
  const std::vector<std::string> first{"--bytes", "8", "--out", folder_ / "out"};
  bytes(first);
  const std::string kept = read_file(folder_ / "out/sample-000.bin");
  const CommandResult again = run({"--bytes", "9", "--out", folder_ / "out"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_NE(again.err.find("--overwrite"), std::string::npos) << again.err;
  EXPECT_EQ(read_file(folder_ / "out/sample-000.bin"), kept);
  bytes({"--bytes", "9", "--out", folder_ / "out", "--overwrite"});
  EXPECT_EQ(read_file(folder_ / "out/sample-000.bin").size(), 9u);
}

TEST_F(GenerateCommand, BadUsageAndBadInputSayWhatToDo) {
  const auto expect = [&](const std::vector<std::string>& arguments, int code,
                          const std::string& message) {
    const CommandResult result = run(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  };
  expect({"--samples", "2"}, 2, "--out");
  expect({"--temperature", "-1"}, 2, "--temperature");
  expect({"--top-p", "0"}, 2, "--top-p");
  expect({"--top-p", "1.5"}, 2, "--top-p");
  expect({"--top-k", "-3"}, 2, "--top-k");
  expect({"--bytes", "-3"}, 2, "--bytes");
  expect({"--bytes", "many"}, 2, "--bytes");
  expect({"--samples", "0"}, 2, "--samples");
  expect({"--prompt", "a", "--prompt-file", "b"}, 2, "--prompt");
  expect({"--unknown"}, 2, "--unknown");
  expect({"--prompt-file", folder_ / "absent"}, 1, "absent");
  expect({"--prompt-file", folder_.path().string()}, 1, "folder");
  write_file(folder_ / "file", "");
  expect({"--out", folder_ / "file"}, 1, "folder");
  const CommandResult result = run_megabyte({"generate", "--model", folder_ / "absent"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("absent"), std::string::npos) << result.err;
  EXPECT_EQ(run_megabyte({"generate", "--model"}).exit_code, 2);
}

// A run without end whose stdout is a pipe to the test.
class Stream {
 public:
  Stream(const std::vector<std::string>& arguments, const std::string& err) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    child_ = fork();
    if (child_ == 0) {
      std::vector<std::string> words = arguments;
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
      if (!freopen(err.c_str(), "wb", stderr)) _exit(126);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    out_ = ends[0];
  }

  size_t read_some() const {
    char bytes[256];
    const ssize_t n = ::read(out_, bytes, sizeof(bytes));
    return n > 0 ? static_cast<size_t>(n) : 0;
  }
  void close_reader() const { close(out_); }
  void interrupt() const { kill(child_, SIGINT); }
  int exit_code() const {
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t child_;
  int out_;
};

TEST_F(GenerateCommand, AReaderThatLeavesAndAnInterruptEndTheStreamQuietly) {
  const std::vector<std::string> endless{MEGABYTE_BINARY,   "generate", "--model",
                                         folder_ / "model", "--bytes",  "1000000000000"};
  Stream left(endless, folder_ / "err");
  EXPECT_GT(left.read_some(), 0u);
  left.close_reader();
  EXPECT_EQ(left.exit_code(), 0);
  EXPECT_EQ(read_file(folder_ / "err"), "");

  Stream interrupted(endless, folder_ / "err");
  EXPECT_GT(interrupted.read_some(), 0u);
  interrupted.interrupt();
  while (interrupted.read_some() > 0) continue;
  interrupted.close_reader();
  EXPECT_EQ(interrupted.exit_code(), 0);
  EXPECT_EQ(read_file(folder_ / "err"), "");
}

TEST(Generate, ASymbolBeyondBytesEndsASample) {
  TemporaryFolder folder;
  test::save_random_model("vocab_257", folder / "model");
  const CommandResult result =
      run_megabyte({"generate", "--model", folder / "model", "--bytes", "1500", "--samples", "8",
                    "--out", folder / "out", "--temperature", "1000", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  int64_t bytes = 0, ended = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder / "out")) {
    bytes += static_cast<int64_t>(file.file_size());
    ended += file.file_size() < 1500;
  }
  EXPECT_EQ(nlohmann::json::parse(result.err).at("bytes"), bytes);
  EXPECT_EQ(nlohmann::json::parse(result.err).at("ended"), ended);
  EXPECT_GT(ended, 4);  // one in 257 symbols ends
}

}  // namespace
}  // namespace megabyte
