// The plans of plans/*.json, which the build puts into the program.
#pragma once

#include <span>
#include <string_view>

namespace megabyte {

struct ShippedPlan {
  std::string_view name, text;
};

std::span<const ShippedPlan> shipped_plans();

}  // namespace megabyte
