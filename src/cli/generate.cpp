#include "cli/commands.h"

namespace megabyte::cli {

void add_generate(CLI::App&) {}

}  // namespace megabyte::cli
