// Runs the program `megabyte` as a user would and gives back what it printed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace megabyte::test {

struct CommandResult {
  int exit_code = -1;
  std::string out, err;
};

// Runs the program with the arguments (no shell) and `input` on its standard input.
CommandResult run_megabyte(const std::vector<std::string>& arguments, const std::string& input = "",
                           const std::string& program = MEGABYTE_BINARY);

// A fresh folder, removed with everything in it at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// The program at work: to be signalled, and waited for. `largest_file` bounds what it may write (a
// full disk, as far as the program can tell); 0 = no bound.
class RunningMegabyte {
 public:
  explicit RunningMegabyte(const std::vector<std::string>& arguments, const std::string& input = "",
                           uint64_t largest_file = 0, const std::string& program = MEGABYTE_BINARY);
  ~RunningMegabyte();  // kills what is still running
  RunningMegabyte(const RunningMegabyte&) = delete;
  RunningMegabyte& operator=(const RunningMegabyte&) = delete;

  void send(int signal) const;
  bool running();
  CommandResult wait();

 private:
  TemporaryFolder folder_;
  int child_ = -1;  // -1 once waited for
  int status_ = 0;
};

void write_file(const std::filesystem::path& file, const std::string& content);
std::string read_file(const std::filesystem::path& file);

}  // namespace megabyte::test
