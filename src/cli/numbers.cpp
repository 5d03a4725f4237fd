#include "cli/numbers.h"

#include <fmt/format.h>

#include <cmath>

namespace megabyte::cli {
namespace {

std::string with_prefix(double value, double step, const std::string_view (&prefixes)[6],
                        std::string_view unit) {
  size_t i = 0;
  // 999.6 would be printed as 1000: it belongs to the next prefix.
  while (std::abs(value) >= step * 0.9995 && i + 1 < std::size(prefixes)) {
    value /= step;
    ++i;
  }
  const bool whole = i == 0 && value == std::floor(value);
  const int digits = whole || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}{}{}", value, digits, prefixes[i].empty() && unit.empty() ? "" : " ",
                     prefixes[i], unit);
}

}  // namespace

std::string scaled(double value, std::string_view unit) {
  return with_prefix(value, 1000, {"", "k", "M", "G", "T", "P"}, unit);
}

std::string memory_size(double bytes) {
  return with_prefix(bytes, 1024, {"", "Ki", "Mi", "Gi", "Ti", "Pi"}, "B");
}

std::string human_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

}  // namespace megabyte::cli
