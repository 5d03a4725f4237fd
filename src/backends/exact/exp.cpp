#include "backends/exact/exp.h"

#include <bit>
#include <cmath>

#include "backends/exact/floating_point.h"
#include "backends/exact/kernels.h"

namespace megabyte::exact {

float exp(float x) {
  const StandardFloatingPoint standard;
  constexpr float kRounder = 0x1.8p23f;
  x = x > -86.0f ? x : -86.0f;
  x = x < 88.0f ? x : 88.0f;
  const float t = std::fma(x, 0x1.715476p+0f, kRounder), n = t - kRounder;
  float r = std::fma(-n, 0x1.62e430p-1f, x);
  r = std::fma(-n, -0x1.05c610p-29f, r);
  float p = 0x1.6a2318p-10f;
  for (const float c : {0x1.123a8ep-7f, 0x1.5558f6p-5f, 0x1.555490p-3f, 0x1.fffffcp-2f, 1.0f, 1.0f})
    p = std::fma(p, r, c);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(t) << 23));
}

void frequencies(const float* logits, int64_t rows, int64_t vocab, uint32_t* out) {
  const StandardFloatingPoint standard;
  const Kernels& kernels = *available_kernels().front();
  for (int64_t r = 0; r < rows; ++r)
    kernels.frequencies(logits + r * vocab, vocab, out + r * vocab);
}

}  // namespace megabyte::exact
