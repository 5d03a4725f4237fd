#include "cli/commands.h"

namespace megabyte::cli {

void add_info(CLI::App&) {}

}  // namespace megabyte::cli
