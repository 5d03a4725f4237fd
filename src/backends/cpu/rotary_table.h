// Cosines and sines of rotary positions, kept for as many positions as were asked for.
#pragma once

#include <cstdint>
#include <vector>

namespace megabyte::cpu {

class RotaryTable {
 public:
  // The table with at least `positions` rows of head_dim / 2 angles.
  const RotaryTable& up_to(int64_t positions, int64_t head_dim);
  const float* cosines() const { return cosines_.data(); }
  const float* sines() const { return sines_.data(); }

 private:
  int64_t positions_ = 0;
  std::vector<float> cosines_, sines_;
};

}  // namespace megabyte::cpu
