// Products of tensor cores in tf32 (mma.m16n8k8) of matrices that a block reads from anywhere.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace megabyte::cuda {

constexpr int kTf32Threads = 256;  // of a block

__device__ inline uint32_t to_tf32(float x) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(x));
  return result;
}

__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// An operand and what its rounding leaves.
template <bool kSplit, int N>
struct Operand {
  uint32_t high[N], low[N];
  __device__ void set(int i, float x) {
    high[i] = to_tf32(x);
    if constexpr (kSplit) low[i] = to_tf32(x - __uint_as_float(high[i]));
  }
};

// Adds to the warp's 16 x 8 kColumns sums a . b over [begin, end), whole eights. Lane 4 g + c has
// rows g, g + 8 (i = 0, 1) and columns 8 n + 2 c + e: sums[n][2 i + e].
template <bool kSplit, int kColumns, class A, class B>
__device__ void multiply(float (&sums)[kColumns][4], int begin, int end, A&& a, B&& b) {
  const int g = static_cast<int>(threadIdx.x % 32) / 4, c = static_cast<int>(threadIdx.x % 4);
#pragma unroll 2
  for (int k = begin; k < end; k += 8) {
    Operand<kSplit, 4> left;
#pragma unroll
    for (int i = 0; i < 4; ++i) left.set(i, a(g + i % 2 * 8, k + c + i / 2 * 4));
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      Operand<kSplit, 2> right;
#pragma unroll
      for (int i = 0; i < 2; ++i) right.set(i, b(k + c + i * 4, n * 8 + g));
      if constexpr (kSplit) {
        mma(sums[n], left.low, right.high);
        mma(sums[n], left.high, right.low);
      }
      mma(sums[n], left.high, right.high);
    }
  }
}

// The warps' shares of a matrix: 16 rows and 8 kTiles columns each.
template <int kRows, int kColumns>
struct WarpShare {
  static constexpr int kAlong = kTf32Threads / 32 / (kRows / 16);  // warps that share their rows
  static constexpr int kTiles = kColumns / (8 * kAlong);
  static_assert(kTiles * 8 * kAlong == kColumns && kAlong * (kRows / 16) == kTf32Threads / 32);
  int row, column;
  __device__ WarpShare()
      : row(static_cast<int>(threadIdx.x) / 32 / kAlong * 16),
        column(static_cast<int>(threadIdx.x) / 32 % kAlong * kTiles * 8) {}

  // Calls f(row, column, x, y) for neighbours x, y in a row.
  template <class F>
  __device__ void each_pair(float (&sums)[kTiles][4], F&& f) const {
    const int g = static_cast<int>(threadIdx.x % 32) / 4, c = static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        f(row + g + 8 * i, column + 8 * n + 2 * c, sums[n][2 * i], sums[n][2 * i + 1]);
  }
};

}  // namespace megabyte::cuda
