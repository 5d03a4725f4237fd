#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace megabyte::test {

inline std::vector<uint8_t> random_bytes(size_t count, uint64_t seed) {
  Random random(seed, 0);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(256));
  return bytes;
}

}  // namespace megabyte::test
