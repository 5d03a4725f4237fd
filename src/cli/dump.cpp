#include "cli/commands.h"

namespace megabyte::cli {

void add_dump(CLI::App&) {}

}  // namespace megabyte::cli
