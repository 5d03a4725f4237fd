// Numbers for people.
#pragma once

#include <string>
#include <string_view>

namespace megabyte::cli {

// Three digits, a decimal prefix and the unit: "1.91 G", "640", "23.1 kB/s".
std::string scaled(double value, std::string_view unit = {});
std::string memory_size(double bytes);       // "1.5 GiB", "640 B"
std::string human_duration(double seconds);  // "45s", "12m05s", "3h20m"

}  // namespace megabyte::cli
