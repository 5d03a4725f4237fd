// A line on stderr that says how far a command is: written over at most ten times a second, and
// only on a terminal.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace megabyte::cli {

class TerminalLine {
 public:
  TerminalLine() = default;
  ~TerminalLine() { clear(); }
  TerminalLine(const TerminalLine&) = delete;
  TerminalLine& operator=(const TerminalLine&) = delete;

  // Is it time for a new text?
  bool due() const {
    return terminal_ && std::chrono::steady_clock::now() - last_ >= std::chrono::milliseconds(100);
  }
  void show(const std::string& text) {
    last_ = std::chrono::steady_clock::now();
    shown_ = true;
    fmt::print(stderr, "\r\033[K{}", text);
    std::fflush(stderr);
  }
  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  std::chrono::steady_clock::time_point last_{};
  bool shown_ = false;
};

}  // namespace megabyte::cli
