#include "ops/range_coder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/random.h"

namespace megabyte {
namespace {

using Frequencies = std::vector<uint32_t>;

uint32_t below(const Frequencies& f, size_t symbol) {
  return std::accumulate(f.begin(), f.begin() + static_cast<std::ptrdiff_t>(symbol), 0u);
}
uint32_t total(const Frequencies& f) { return below(f, f.size()); }

std::vector<uint8_t> encode(const std::vector<Frequencies>& f, const std::vector<size_t>& symbols) {
  RangeEncoder encoder;
  for (size_t i = 0; i < symbols.size(); ++i)
    encoder.encode(below(f[i], symbols[i]), f[i][symbols[i]], total(f[i]));
  return encoder.finish();
}

std::vector<size_t> decode(const std::vector<Frequencies>& f, std::span<const uint8_t> bytes) {
  RangeDecoder decoder(bytes);
  std::vector<size_t> symbols;
  for (const Frequencies& each : f) {
    const uint32_t target = decoder.target(total(each));
    size_t symbol = 0;
    while (below(each, symbol + 1) <= target) ++symbol;
    decoder.take(below(each, symbol), each[symbol]);
    symbols.push_back(symbol);
  }
  return symbols;
}

// Sums from tiny to 2^32 - 1, symbols from certain to one in four billion.
TEST(RangeCoder, DecodesWhatItEncodedAtTheCostOfTheProbabilities) {
  Random random(1, 0);
  for (int run = 0; run < 50; ++run) {
    std::vector<Frequencies> f;
    std::vector<size_t> symbols;
    double bits = 0;
    for (int i = 0; i < 400; ++i) {
      Frequencies each(1 + random.below(6), 1);
      if (run % 3 > 0)
        for (uint32_t& x : each) x += static_cast<uint32_t>(random.below(1u << random.below(29)));
      if (run % 7 == 0) each[0] += ~uint32_t{0} - total(each);
      symbols.push_back(random.below(each.size()));
      bits -= std::log2(each[symbols.back()] / static_cast<double>(total(each)));
      f.push_back(each);
    }
    const std::vector<uint8_t> bytes = encode(f, symbols);
    EXPECT_EQ(decode(f, bytes), symbols);
    EXPECT_LE(static_cast<double>(bytes.size()), bits / 8 + 1.1);
  }
}

// The last symbol of each sum keeps the interval's top, so that low runs into carries, long ones
// too.
TEST(RangeCoder, CarriesRunThroughBytesThatHaveLeft) {
  Random random(2, 0);
  for (int run = 0; run < 200; ++run) {
    std::vector<Frequencies> f;
    std::vector<size_t> symbols;
    const uint64_t rare = 1 + random.below(60);
    for (int i = 0; i < 300; ++i) {
      f.push_back({(1u << 30) - 1, 1, 3});
      symbols.push_back(random.below(rare) == 0 ? 0 : random.below(2) + 1);
    }
    EXPECT_EQ(decode(f, encode(f, symbols)), symbols);
  }
}

TEST(RangeCoder, CertainSymbolsAndNoSymbolsCostNothing) {
  EXPECT_EQ(encode({}, {}), std::vector<uint8_t>{});
  EXPECT_EQ(encode(std::vector<Frequencies>(1000, {7}), std::vector<size_t>(1000, 0)),
            std::vector<uint8_t>{});
  // The likeliest bytes at the interval's low end: a number that is all zeros.
  EXPECT_LE(
      encode(std::vector<Frequencies>(100, {1u << 22, 1}), std::vector<size_t>(100, 0)).size(), 1u);
}

// The format, not only the symmetry of this program.
TEST(RangeCoder, WritesTheBytesOfTheFormat) {
  // 2^64 - 1 halved, then the middle third of that: low = 2^63 + 2^63 / 3.
  EXPECT_EQ(encode({{1, 1}, {1, 1, 1}}, {1, 1}), std::vector<uint8_t>{0xab});
  EXPECT_EQ(encode(std::vector<Frequencies>(24, {1, 1}),
                   {1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1}),
            (std::vector<uint8_t>{0xaa, 0xf0, 0x13}));
}

TEST(RangeCoder, ReadsAnyBytesAsSomeSymbols) {
  Random random(3, 0);
  for (int run = 0; run < 100; ++run) {
    std::vector<uint8_t> bytes(random.below(40));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random.below(256));
    const std::vector<Frequencies> f(200, {1u << 29, 1, 77, 1u << 20});
    for (const size_t symbol : decode(f, bytes)) EXPECT_LT(symbol, 4u);
  }
}

}  // namespace
}  // namespace megabyte
