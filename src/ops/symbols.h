// The 256 frequencies of a byte, as docs/exact.md makes them from logits: where a symbol's share
// of their sum lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>

namespace megabyte {

inline constexpr size_t kByteValues = 256;

struct Share {
  uint8_t symbol;
  uint32_t below;  // the sum of the frequencies of smaller symbols
};

inline uint32_t sum(const uint32_t* frequencies, size_t count) {
  return std::accumulate(frequencies, frequencies + count, 0u);
}

// The symbol whose share holds `target`, which is less than the sum of all.
inline Share share_of(const uint32_t* frequencies, uint32_t target) {
  constexpr size_t kBlock = 16;
  uint32_t below = 0;
  size_t i = 0;
  for (; i < kByteValues - kBlock; i += kBlock) {
    const uint32_t next = below + sum(frequencies + i, kBlock);
    if (next > target) break;
    below = next;
  }
  while (i < kByteValues - 1 && below + frequencies[i] <= target) below += frequencies[i++];
  return {static_cast<uint8_t>(i), below};
}

}  // namespace megabyte
