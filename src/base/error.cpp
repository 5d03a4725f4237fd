#include "base/error.h"

namespace megabyte {

void fail_check(std::string_view what, const char* file, int line) {
  std::string_view name = file;
  if (auto at = name.rfind("src/"); at != std::string_view::npos) name.remove_prefix(at);
  throw Error(fmt::format("internal error, please report it: {} ({}:{})", what, name, line));
}

}  // namespace megabyte
