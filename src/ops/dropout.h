// The mask that Dropout stands for, element by element.
#pragma once

#include "base/random.h"
#include "ops/ops.h"

namespace megabyte {

// The stream of its numbers, where the draw lies in the host's memory.
inline uint64_t stream_of(const Dropout& dropout) {
  const auto draw = dropout.draw ? static_cast<uint64_t>(*dropout.draw.as<double>()) : 0;
  return (draw << 24) + dropout.stream;
}

// The factor on element i: 0 where it is dropped, else 1 / (1 - rate), so that the mean stays.
inline double dropout_factor(const Dropout& dropout, int64_t i) {
  if (dropout.rate == 0) return 1;
  const uint64_t index = static_cast<uint64_t>(i);
  const uint32_t word = philox(dropout.seed, stream_of(dropout), index / 4)[index % 4];
  return uniform(word) < dropout.rate ? 0 : 1 / (1 - static_cast<double>(dropout.rate));
}

}  // namespace megabyte
