// Numbers for people.
#pragma once

#include <string>

namespace megabyte::cli {

std::string scaled(double value);       // three digits and a decimal prefix: "1.91 G", "640"
std::string memory_size(double bytes);  // "1.5 GiB", "640 B"

}  // namespace megabyte::cli
