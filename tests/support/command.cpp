#include "support/command.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace megabyte::test {

RunningMegabyte::RunningMegabyte(const std::vector<std::string>& arguments,
                                 const std::string& input, uint64_t largest_file,
                                 const std::string& program) {
  write_file(folder_ / "in", input);
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string in = folder_ / "in", out = folder_ / "out", err = folder_ / "err";
  child_ = fork();
  if (child_ < 0) throw std::runtime_error("fork failed");
  if (child_ > 0) return;
  const rlimit limit{largest_file, largest_file};
  if (largest_file > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(126);
  if (!freopen(in.c_str(), "rb", stdin) || !freopen(out.c_str(), "wb", stdout) ||
      !freopen(err.c_str(), "wb", stderr))
    _exit(126);
  execv(argv[0], argv.data());
  _exit(127);
}

RunningMegabyte::~RunningMegabyte() {
  if (!running()) return;
  send(SIGKILL);
  wait();
}

void RunningMegabyte::send(int signal) const {
  if (child_ > 0) kill(child_, signal);  // once it was waited for, the number means nothing
}

bool RunningMegabyte::running() {
  if (child_ >= 0 && waitpid(child_, &status_, WNOHANG) == child_) child_ = -1;
  return child_ >= 0;
}

CommandResult RunningMegabyte::wait() {
  if (child_ >= 0) {
    EXPECT_EQ(waitpid(child_, &status_, 0), child_);
  }
  child_ = -1;
  return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_),
          read_file(folder_ / "out"), read_file(folder_ / "err")};
}

CommandResult run_megabyte(const std::vector<std::string>& arguments, const std::string& input,
                           const std::string& program) {
  return RunningMegabyte(arguments, input, 0, program).wait();
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "megabyte-test-XXXXXX").string();
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& file, const std::string& content) {
  std::ofstream(file, std::ios::binary) << content;
}

std::string read_file(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace megabyte::test
