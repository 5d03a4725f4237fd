// Rows of activations: layer norms and what products multiply, int8 with a scale for each row.
// Half a warp has a row, and each of its lanes is one of the sixteen of docs/exact.md: it owns
// every sixteenth element.
#include "backends/cuda/vector.cuh"
#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kThreads = 128, kLanes = 16, kRowsOfBlock = kThreads / kLanes;

// The elements of a row that a lane owns: up to kHeld of them in registers, or any number in
// memory, read again for each use.
template <int kHeld>
class Owned {
 public:
  // f(i) is element i, given now; those past the row's end are zeros.
  template <class F>
  __device__ Owned(const float* memory, int64_t count, int lane, const F& f)
      : memory_(memory), count_(count), lane_(lane) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int64_t i = int64_t{j} * kLanes + lane_;
        held_[j] = i < count_ ? f(i) : 0.0f;
      }
    } else {
      for (int64_t i = lane_; i < count_; i += kLanes) f(i);
    }
  }
  // f(i, element) in ascending order, also for the zeros that fill the last sixteen.
  template <class F>
  __device__ void each(const F& f) const {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j)
        if (int64_t{j} * kLanes < count_) f(int64_t{j} * kLanes + lane_, held_[j]);
    } else {
      for (int64_t first = 0; first < count_; first += kLanes) {
        const int64_t i = first + lane_;
        f(i, i < count_ ? memory_[i] : 0.0f);
      }
    }
  }

 private:
  const float* memory_;
  int64_t count_;
  int lane_;
  float held_[kHeld > 0 ? kHeld : 1];
};

// A block's warps run to the end, whether there is a row for each half or not: those past the last
// do the last one's work and write nothing.
struct Place {
  int64_t row;
  int lane;
  bool real;
  __device__ explicit Place(int64_t rows)
      : row(int64_t{blockIdx.x} * kRowsOfBlock + threadIdx.x / kLanes),
        lane(static_cast<int>(threadIdx.x) % kLanes),
        real(row < rows) {
    if (!real) row = rows - 1;
  }
};

// Writes a row in 8 bits; values(f) calls f(i, element) for each that this lane owns.
template <class Values>
__device__ void write_quantised(const Place& place, int64_t columns, const Int8Rows& out,
                                const Values& values) {
  unsigned largest = 0;
  values([&](int64_t, float x) { largest = max(largest, __float_as_uint(x) & 0x7fffffffu); });
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  // Rows of nothing, and those that hold an infinity or a NaN, count as zeros.
  const bool counts = largest >= 0x0d800000u && largest < 0x7f800000u;  // from 2^-100 on
  if (!place.real) return;
  const float amax = __uint_as_float(largest);
  const float inverse = counts ? __fdiv_rn(127.0f, amax) : 0.0f;
  if (place.lane == 0) out.scales[place.row] = counts ? __fdiv_rn(amax, 127.0f) : 0.0f;
  const int64_t across = blocks_across(columns);
  values([&](int64_t i, float x) {
    const float t = __fmaf_rn(counts ? x : 0.0f, inverse, kRounder);
    out.q[place_of(place.row, i, across)] = static_cast<int8_t>(__float_as_uint(t) & 0xffu);
  });
  // The last block's other columns.
  for (int64_t i = (columns + kLanes - 1) / kLanes * kLanes + place.lane;
       i < across * kBlockColumns; i += kLanes)
    out.q[place_of(place.row, i, across)] = 0;
}

template <int kHeld>
__global__ void __launch_bounds__(kThreads)
    quantise_kernel(const float* x, int64_t rows, int64_t columns, const Int8Rows out) {
  const Place place(rows);
  const float* row = x + place.row * columns;
  const Owned<kHeld> owned(row, columns, place.lane, [&](int64_t i) { return row[i]; });
  write_quantised(place, columns, out, [&](const auto& f) { owned.each(f); });
}

template <int kHeld, bool kQuantise>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const Norm norm, int64_t rows, int64_t dim, float* y, const Int8Rows out) {
  const Place place(rows);
  const int64_t at = place.row * dim;
  const bool adds = norm.delta != nullptr;
  const float* row = adds ? norm.sum + at : norm.x + at;
  const Owned<kHeld> owned(row, dim, place.lane, [&](int64_t i) {
    if (!adds) return norm.x[at + i];
    const float sum = __fadd_rn(norm.x[at + i], norm.delta[at + i]);
    if (place.real) norm.sum[at + i] = sum;
    return sum;
  });
  const auto width = static_cast<float>(dim);
  float total = 0.0f;
  owned.each([&](int64_t, float x) { total = __fadd_rn(total, x); });
  const float mean = __fdiv_rn(sum_of_lanes(total), width);
  float squares = 0.0f;
  owned.each([&](int64_t i, float x) {
    const float d = i < dim ? __fsub_rn(x, mean) : 0.0f;
    squares = __fmaf_rn(d, d, squares);
  });
  const float variance = __fdiv_rn(sum_of_lanes(squares), width);
  const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(variance, norm.eps)));
  const auto normed = [&](int64_t i, float x) {
    return i < dim ? __fmaf_rn(__fmul_rn(__fsub_rn(x, mean), scale), norm.weight[i], norm.bias[i])
                   : 0.0f;
  };
  if constexpr (kQuantise)
    write_quantised(place, dim, out, [&](const auto& f) {
      owned.each([&](int64_t i, float x) { f(i, normed(i, x)); });
    });
  else if (place.real)
    owned.each([&](int64_t i, float x) {
      if (i < dim) y[at + i] = normed(i, x);
    });
}

unsigned grid(int64_t rows) { return cuda::grid_of(cuda::ceil_div(rows, kRowsOfBlock)); }

// f(how many elements of a row a lane holds in registers)
template <class F>
void with_held(int64_t columns, const F& f) {
  if (columns <= 8 * kLanes)
    f(std::integral_constant<int, 8>{});
  else if (columns <= 16 * kLanes)
    f(std::integral_constant<int, 16>{});
  else if (columns <= 32 * kLanes)
    f(std::integral_constant<int, 32>{});
  else if (columns <= 64 * kLanes)
    f(std::integral_constant<int, 64>{});
  else
    f(std::integral_constant<int, 0>{});
}

}  // namespace

Int8Rows int8_rows(void* memory, int64_t rows, int64_t columns) {
  const int64_t padded = cuda::ceil_div(rows, kTileRows) * kTileRows;
  auto* q = static_cast<int8_t*>(memory);
  return {q, reinterpret_cast<float*>(q + padded * blocks_across(columns) * kBlockColumns)};
}

void quantise(cuda::Context& context, const float* x, int64_t rows, int64_t columns,
              const Int8Rows& out) {
  with_held(columns, [&](auto held) {
    quantise_kernel<decltype(held)::value>
        <<<grid(rows), kThreads, 0, context.stream()>>>(x, rows, columns, out);
  });
  cuda::check_launch("quantise");
}

void norm(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim, float* y) {
  with_held(dim, [&](auto held) {
    norm_kernel<decltype(held)::value, false>
        <<<grid(rows), kThreads, 0, context.stream()>>>(norm, rows, dim, y, {});
  });
  cuda::check_launch("norm");
}

void norm_and_quantise(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim,
                       const Int8Rows& out) {
  with_held(dim, [&](auto held) {
    norm_kernel<decltype(held)::value, true>
        <<<grid(rows), kThreads, 0, context.stream()>>>(norm, rows, dim, nullptr, out);
  });
  cuda::check_launch("norm");
}

}  // namespace megabyte::exact_cuda
