// base/random.h on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/ops.h"

namespace megabyte::cuda {

__device__ inline uint4 philox(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
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
  return make_uint4(c0, c1, c2, c3);
}

// Uniform in (0, 1).
__device__ inline float uniform(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

// The factors that Dropout stands for (ops/dropout.h).
struct DropoutMask {
  float rate, kept;  // kept = 1 / (1 - rate)
  uint64_t seed, first;
  const double* draw;

  explicit DropoutMask(const Dropout& d)
      : rate(d.rate),
        kept(1 / (1 - d.rate)),
        seed(d.seed),
        first(d.stream),
        draw(d.draw ? d.draw.as<double>() : nullptr) {}

  // x[0..N) times the factors of elements [i, i + N), i a multiple of N; N is 1 or of fours.
  template <int N>
  __device__ void apply(float* x, int64_t i) const {
    if (rate == 0) return;
    const uint64_t stream =
        (draw == nullptr ? 0 : static_cast<uint64_t>(__ldg(draw)) << 24) + first;
    if constexpr (N % 4 == 0) {
#pragma unroll
      for (int k = 0; k < N; k += 4) {
        const uint4 words = philox(seed, stream, static_cast<uint64_t>(i + k) / 4);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) x[k + j] = uniform(word[j]) < rate ? 0 : x[k + j] * kept;
      }
    } else {
      static_assert(N == 1);
      const uint4 words = philox(seed, stream, static_cast<uint64_t>(i) / 4);
      const int j = static_cast<int>(i % 4);
      const uint32_t mine = j < 2 ? (j == 0 ? words.x : words.y) : (j == 2 ? words.z : words.w);
      x[0] = uniform(mine) < rate ? 0 : x[0] * kept;
    }
  }
};

}  // namespace megabyte::cuda
