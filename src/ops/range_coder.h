// A range coder in 64 bits over frequencies of any sum (Martin 1979, "Range encoding"), with
// carries: one interval [low, low + range) of binary fractions narrows symbol by symbol, and bytes
// leave at its top. With sums below 2^32 the loss to rounding is less than 2^-24 of a symbol's
// probability. All of it is integers: every machine makes and reads the same bytes.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ops/byte_coding.h"

#ifdef __CUDACC__
#define MEGABYTE_DEVICE __host__ __device__
#else
#define MEGABYTE_DEVICE
#endif

namespace megabyte {

inline constexpr uint64_t kSmallestRange = uint64_t{1} << 56;  // of an interval between symbols

class RangeEncoder {
 public:
  // The symbol that owns [below, below + frequency) of [0, total); frequency > 0.
  void encode(uint32_t below, uint32_t frequency, uint32_t total) {
    const uint64_t unit = range_ / total;
    add(unit * below);
    range_ = unit * frequency;
    while (range_ < kSmallestRange) {
      shift();
      range_ <<= 8;
    }
  }

  void encode(const ByteShare& share) { encode(share.below, share.frequency, share.total); }

  // The fewest bytes that name a number inside the interval; those left out at the end count as 0.
  std::vector<uint8_t> finish() {
    const uint64_t up = kSmallestRange - 1;
    add(up);
    low_ &= ~up;
    shift();
    while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
    return std::move(bytes_);
  }

 private:
  void add(uint64_t x) {
    low_ += x;
    if (low_ >= x) return;
    // A carry into bytes that have left. The interval lies below 1, so that it ends inside them.
    auto at = bytes_.rbegin();
    while (++*at == 0) ++at;
  }
  void shift() {
    bytes_.push_back(static_cast<uint8_t>(low_ >> 56));
    low_ <<= 8;
  }

  uint64_t low_ = 0, range_ = ~uint64_t{0};
  std::vector<uint8_t> bytes_;
};

// The interval's place in the bytes that name it. Plain memory, so that it may lie on a device, as
// `bytes` then does, too.
class RangeDecoder {
 public:
  RangeDecoder() = default;  // of no bytes: decodes to something
  explicit RangeDecoder(std::span<const uint8_t> bytes)
      : bytes_(bytes.data()), size_(bytes.size()) {
    for (int i = 0; i < 8; ++i) shift();
  }
  // The same bytes elsewhere.
  void move_to(const uint8_t* bytes) { bytes_ = bytes; }

  // A number in [0, total): it belongs to the next symbol, which take() then names. Bytes that no
  // encoder wrote give some symbols, too.
  MEGABYTE_DEVICE uint32_t target(uint32_t total) {
    unit_ = range_ / total;
    const uint64_t at = offset_ / unit_;
    return at < total ? static_cast<uint32_t>(at) : total - 1;
  }
  MEGABYTE_DEVICE void take(uint32_t below, uint32_t frequency) {
    offset_ -= unit_ * below;
    range_ = unit_ * frequency;
    while (range_ < kSmallestRange) {
      shift();
      range_ <<= 8;
    }
  }

 private:
  MEGABYTE_DEVICE void shift() {
    offset_ = offset_ << 8 | (next_ < size_ ? bytes_[next_] : 0);
    ++next_;
  }

  const uint8_t* bytes_ = nullptr;
  uint64_t size_ = 0, next_ = 0;
  uint64_t offset_ = 0;  // of the number that the bytes name, from the interval's low end
  uint64_t range_ = ~uint64_t{0}, unit_ = 0;
};

}  // namespace megabyte
