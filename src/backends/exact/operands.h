// What the exact backend's operations share: their operands' elements, and how much a thread gets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/tensor.h"

namespace megabyte::exact {

inline constexpr int64_t kGrain = 1 << 16;  // additions or copies that a thread should have

inline int64_t rows_of(int64_t grain, int64_t width) { return std::max<int64_t>(1, grain / width); }

// The elements of a float tensor of `size` elements; nullptr where there is none.
inline float* floats(const Tensor& t, int64_t size, std::string_view what) {
  if (!t) return nullptr;
  check(t.size() == size, what);
  return t.as<float>();
}

}  // namespace megabyte::exact
