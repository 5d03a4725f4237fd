#include "base/error.h"

namespace megabyte {

void fail_check(std::string_view what, const std::source_location& where) {
  std::string_view file = where.file_name();
  if (auto at = file.rfind("src/"); at != std::string_view::npos) file.remove_prefix(at);
  throw Error(
      fmt::format("internal error, please report it: {} ({}:{})", what, file, where.line()));
}

}  // namespace megabyte
