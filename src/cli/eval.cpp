#include "cli/commands.h"

namespace megabyte::cli {

void add_eval(CLI::App&) {}

}  // namespace megabyte::cli
