// Cosines and sines of rotary positions in the exact numbers (docs/exact.md): in double, without a
// function of a library.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace megabyte::exact {

// (cos, sin) of position * 10000^(-2 pair / head_dim).
struct Turn {
  float cosine, sine;
};
Turn rotary_turn(int64_t position, int64_t pair, int64_t head_dim);

// Rows of head_dim / 2 of each, by position.
struct RotaryTable {
  int64_t positions = 0;
  std::vector<float> cosines, sines;
};

// Tables for as many positions as were asked for. Safe to use from several threads.
class RotaryTables {
 public:
  std::shared_ptr<const RotaryTable> up_to(int64_t positions, int64_t head_dim);

 private:
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<const RotaryTable>> tables_;  // by head_dim
};

}  // namespace megabyte::exact
