// Frequencies of symbols (docs/exact.md, section 2), a row of them for a warp.
#pragma once

#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {

// The frequencies of a row's 256 bytes: a lane has eight neighbouring ones.
struct Frequencies {
  static constexpr int kEach = 8;
  uint32_t own[kEach];
  uint32_t below;  // the sum of those of the lanes before
  uint32_t total;
  __device__ Frequencies(const float* logits, int lane) {
    float x[kEach];
    float top = minus_infinity();
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      x[i] = logits[lane * kEach + i];
      top = maximum(x[i], top);
    }
    top = maximum_of_warp(top);
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum += own[i] = frequency(x[i], top);
    uint32_t upto = sum;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t earlier = __shfl_up_sync(~0u, upto, distance);
      if (lane >= distance) upto += earlier;
    }
    below = upto - sum;
    total = __shfl_sync(~0u, upto, 31);
  }
};

// The next byte of `decoder`, by a row's logits.
__device__ inline void decode_byte(const float* logits, int lane, RangeDecoder* decoder,
                                   uint16_t* byte) {
  RangeDecoder now = *decoder;
  const Frequencies f(logits, lane);
  const uint32_t target = now.target(f.total);
  uint32_t below = f.below;
  int found = -1;
  uint32_t frequency = 0;
#pragma unroll
  for (int i = 0; i < Frequencies::kEach; ++i) {
    if (found < 0 && target >= below && target - below < f.own[i]) {
      found = lane * Frequencies::kEach + i;
      frequency = f.own[i];
    }
    if (found < 0) below += f.own[i];
  }
  __syncwarp();  // all have read the decoder that one changes
  if (found < 0) return;
  now.take(below, frequency);
  *decoder = now;
  *byte = static_cast<uint16_t>(found);
}

}  // namespace megabyte::exact_cuda
