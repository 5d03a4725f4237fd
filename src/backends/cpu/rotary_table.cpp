#include <algorithm>
#include <cmath>

#include "backends/cpu/rotary_table.h"

namespace megabyte::cpu {

const RotaryTable& RotaryTable::up_to(int64_t positions, int64_t head_dim) {
  if (positions <= positions_) return *this;
  positions = std::max(positions, 2 * positions_);  // decoding asks for one more each time
  const int64_t half = head_dim / 2;
  cosines_.resize(static_cast<size_t>(positions * half));
  sines_.resize(static_cast<size_t>(positions * half));
  for (int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    for (int64_t p = positions_; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      cosines_[static_cast<size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
      sines_[static_cast<size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
    }
  }
  positions_ = positions;
  return *this;
}

}  // namespace megabyte::cpu
