#include "cli/commands.h"

namespace megabyte::cli {

void add_train(CLI::App&) {}

}  // namespace megabyte::cli
