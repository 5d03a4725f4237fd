#include "cli/commands.h"

namespace megabyte::cli {

void add_bench(CLI::App&) {}

}  // namespace megabyte::cli
