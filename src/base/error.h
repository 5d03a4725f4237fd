// The one exception type. Its message says what was wrong, where, and what to do; the command line
// prints it on one line and exits with 1 (2 for UsageError).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace megabyte {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The command line itself was wrong (exit code 2).
class UsageError : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void fail_check(std::string_view what, const char* file, int line);

// An invariant of the program itself, never of the user's input: a failure is a bug of ours. (The
// builtins stand in for std::source_location, which clang 14 lacks.)
inline void check(bool holds, std::string_view what, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (!holds) fail_check(what, file, line);
}

}  // namespace megabyte
