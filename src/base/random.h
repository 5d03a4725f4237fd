// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3"). A number is a pure function of (seed, stream, index), so that every backend,
// thread count and resumed run draws the same ones, and a generator's whole state is its counter.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace megabyte {

// Four independent 32-bit words for (seed, stream, index).
inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Uniform in (0, 1), never 0 and never 1: 23 bits, because with the half a 24th would round up
// to 1.
inline float uniform(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; }

// A stream of numbers drawn one after another.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  uint64_t bits64() { return uint64_t{next()} << 32 | next(); }
  // Uniform integer in [0, bound), without modulo bias worth speaking of (bound far below 2^64).
  uint64_t below(uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(bits64()) * bound) >> 64);
  }
  double uniform01() { return (static_cast<double>(bits64() >> 12) + 0.5) * 0x1p-52; }
  // Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform01()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform01());
  }

 private:
  uint32_t next() {
    if (at_ == 4) {
      words_ = philox(seed_, stream_, index_++);
      at_ = 0;
    }
    return words_[static_cast<size_t>(at_++)];
  }

  uint64_t seed_, stream_, index_ = 0;
  std::array<uint32_t, 4> words_{};
  int at_ = 4;
};

}  // namespace megabyte
