// Rows of activations: layer norms and what products multiply, int8 with a scale for each row.
// Half a warp has a row, and each of its lanes is one of the sixteen of docs/exact.md: it owns
// every sixteenth element.
#pragma once

#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {

constexpr int kLanes = 16;

// The elements of a row that a lane owns: up to kHeld of them in registers, or any number in
// memory, read again for each use. kWhole: it owns all of the kHeld.
template <int kHeld, bool kWhole>
class Owned {
 public:
  // f(j) is element 16 j + lane, given now; those past the row's end are zeros.
  template <class F>
  __device__ Owned(const float* memory, int count, int lane, const F& f)
      : own_(memory + lane), count_(count), lane_(lane) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) held_[j] = has(j) ? f(j) : 0.0f;
    } else {
#pragma unroll 1
      for (int j = 0; has(j); ++j) f(j);
    }
  }
  __device__ bool has(int j) const { return kWhole || j * kLanes + lane_ < count_; }
  // f(j, element) in ascending order, also for the zeros that fill the last sixteen.
  template <class F>
  __device__ void each(const F& f) const {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j)
        if (kWhole || j * kLanes < count_) f(j, held_[j]);
    } else {
#pragma unroll 1
      for (int j = 0; j * kLanes < count_; ++j) f(j, has(j) ? own_[j * kLanes] : 0.0f);
    }
  }
  // Each element becomes f(j, element), where they are in registers.
  template <class F>
  __device__ void replace(const F& f) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) held_[j] = f(j, held_[j]);
  }

 private:
  const float* own_;
  int count_, lane_;
  float held_[kHeld > 0 ? kHeld : 1];
};

// A lane of the half warp that has a row. All of a warp go along to the end; those without a row of
// their own do another's work and write nothing.
struct Place {
  int64_t row;
  int64_t to;  // its row of what is quantised
  int lane;
  bool real;
};

__device__ inline unsigned magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// A row's numbers in 8 bits, by the bits of the largest magnitude. Rows of nothing, and those that
// hold an infinity or a NaN, count as zeros.
class Quantiser {
 public:
  __device__ explicit Quantiser(unsigned largest) {
    counts_ = largest >= 0x0d800000u && largest < 0x7f800000u;  // from 2^-100 on
    amax_ = __uint_as_float(largest);
    inverse_ = counts_ ? __fdiv_rn(127.0f, amax_) : 0.0f;
  }
  __device__ float scale() const { return counts_ ? __fdiv_rn(amax_, 127.0f) : 0.0f; }
  __device__ int8_t operator()(float x) const {
    const float t = __fmaf_rn(counts_ ? x : 0.0f, inverse_, kRounder);
    return static_cast<int8_t>(__float_as_uint(t) & 0xffu);
  }

 private:
  bool counts_;
  float amax_, inverse_;
};

// Writes a row in 8 bits; values(f) calls f as Owned::each() does.
template <class Values>
__device__ void write_quantised(const Place& place, int columns, const Int8Rows& out,
                                const Values& values) {
  unsigned largest = 0;
  values([&](int, float x) { largest = max(largest, magnitude_bits(x)); });
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  const Quantiser quantise(largest);
  if (!place.real) return;
  if (place.lane == 0) out.scales[place.to] = quantise.scale();
  int8_t* to = out.q + place_of<int64_t>(place.to, 0, blocks_across<int64_t>(columns)) + place.lane;
  const auto at = [](int sixteen) { return place_of(0, sixteen * kLanes, 0); };
  values([&](int sixteen, float x) { to[at(sixteen)] = quantise(x); });
  // The last block's other columns.
  constexpr int kOfBlock = kBlockColumns / kLanes;
  const int written = (columns + kLanes - 1) / kLanes;
#pragma unroll 1
  for (int sixteen = written; sixteen < (written + kOfBlock - 1) / kOfBlock * kOfBlock; ++sixteen)
    to[at(sixteen)] = 0;
}

// A row of norm.x with what is added to it, normed where `norms`: to y, or, where there is none, in
// 8 bits to `out`.
template <int kHeld, bool kWhole>
__device__ void run_row(const Place& place, const Norm& norm, bool norms, int dim, float* y,
                        const Int8Rows& out) {
  const int64_t at = place.row * dim, own = at + place.lane;
  const bool adds = norm.delta != nullptr;
  const float *x = norm.x + own, *delta = norm.delta + own;
  float* sums = norm.sum + own;
  Owned<kHeld, kWhole> owned((adds ? norm.sum : norm.x) + at, dim, place.lane, [&](int j) {
    if (!adds) return x[j * kLanes];
    const float sum = __fadd_rn(x[j * kLanes], delta[j * kLanes]);
    if (place.real) sums[j * kLanes] = sum;
    return sum;
  });
  float mean = 0.0f, scale = 1.0f;
  const float *weight = norm.weight + place.lane, *bias = norm.bias + place.lane;
  const auto normed = [&](int j, float x) {
    return owned.has(j) ? __fmaf_rn(__fmul_rn(__fsub_rn(x, mean), scale),
                                    __ldg(weight + j * kLanes), __ldg(bias + j * kLanes))
                        : 0.0f;
  };
  if (norms) {
    const auto width = static_cast<float>(dim);
    float total = 0.0f;
    owned.each([&](int, float x) { total = __fadd_rn(total, x); });
    mean = __fdiv_rn(sum_of_lanes(total), width);
    float squares = 0.0f;
    owned.each([&](int j, float x) {
      const float d = owned.has(j) ? __fsub_rn(x, mean) : 0.0f;
      squares = __fmaf_rn(d, d, squares);
    });
    const float variance = __fdiv_rn(sum_of_lanes(squares), width);
    scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(variance, norm.eps)));
    owned.replace(normed);
  }
  const auto values = [&](const auto& f) {
    owned.each([&](int j, float x) { f(j, kHeld == 0 && norms ? normed(j, x) : x); });
  };
  if (y == nullptr) {
    write_quantised(place, dim, out, values);
  } else if (place.real) {
    float* to = y + own;
    values([&](int j, float x) {
      if (owned.has(j)) to[j * kLanes] = x;
    });
  }
}

}  // namespace megabyte::exact_cuda
