// Products of a warpgroup (wgmma, sm_90a): 64 rows a group, bf16 operands from shared memory or
// registers, f32 sums in registers.
//
// Tiles in shared memory are panels of 64 columns (128 bytes a row) one after another, the eight
// 16-byte chunks of row r stored at chunk ^ (r % 8): the 128-byte swizzle, read by the tensor cores
// along rows (summed over columns) and across them (summed over rows) alike.
// A lane holds of the sums, in warp w of the group: rows 16 w + g and 16 w + g + 8, columns 8 j +
// 2c and 8 j + 2c + 1, at c[4 j + 2 i + e].
#pragma once

#include "backends/cuda/attention_fragments.cuh"

namespace megabyte::cuda {

// One product m64 nN k16: sums += a . b, or sums = a . b where `add` is 0. N is twice the number of
// sums of a lane.
__device__ inline void multiply(float (&c)[32], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
      : "l"(a), "l"(b), "r"(add));
}
// The first operand from registers, the second summed over its rows.
__device__ inline void multiply(float (&c)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply(float (&c)[64], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]),
        "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
        "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]),
        "+f"(c[63])
      : "l"(a), "l"(b), "r"(add));
}
// The first operand from registers, the second summed over its rows.
__device__ inline void multiply(float (&c)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]),
        "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
        "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]),
        "+f"(c[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `left` of the groups of products are unfinished; `sums` are those of finished ones,
// which nothing may read before.
template <int left, int... kSums>
__device__ void products_wait(float (&... sums)[kSums]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
  const auto fence = [](auto& all) {
#pragma unroll
    for (float& sum : all) asm volatile("" : "+f"(sum)::"memory");
  };
  (fence(sums), ...);
}

// A tile of `kRows` rows of D bf16 in shared memory, at a multiple of 1024 bytes.
template <int kRows, int D>
struct SharedTile {
  static constexpr uint32_t kPanel = kRows * 128, kBytes = kPanel * (D / 64);
  uint32_t address;

  // Of a tile's part at a constant offset, so that the rest is made once.
  __device__ static uint64_t descriptor(uint32_t at, uint32_t offset, uint32_t panel) {
    // Address, distance between panels, between groups of eight rows (units of 16 bytes), swizzle.
    return (uint64_t{at >> 4} | uint64_t{panel >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
            uint64_t{1} << 62) +
           (offset >> 4);
  }
  // From row `row`, columns 16 k.. , summed over columns.
  __device__ uint64_t along(int row, int k) const {
    return descriptor(address + static_cast<uint32_t>(row) * 128,
                      static_cast<uint32_t>(k / 4) * kPanel + static_cast<uint32_t>(k % 4) * 32,
                      16);
  }
  // Rows 16 k.., all columns, summed over rows.
  __device__ uint64_t across(int k) const {
    return descriptor(address, static_cast<uint32_t>(k) * 2048, kPanel);
  }
};

// sums = a . b^T for rows from `row` of a, all rows of b.
template <int kRows, int kOther, int D, int kSums>
__device__ void multiply_rows(float (&sums)[kSums], const SharedTile<kRows, D>& a, int row,
                              const SharedTile<kOther, D>& b) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) multiply(sums, a.along(row, k), b.along(0, k), k > 0);
}

// sums += a . b, a (64 x kRows) in registers as pack_sums gives it.
template <int kRows, int D, int kSums>
__device__ void multiply_packed(float (&sums)[kSums], const uint32_t (&a)[kRows / 16][4],
                                const SharedTile<kRows, D>& b) {
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) multiply(sums, a[k], b.across(k));
}

// Sums in bf16 as a first operand.
template <int kSums>
__device__ void pack_sums(const float (&sums)[kSums], uint32_t (&a)[kSums / 8][4]) {
#pragma unroll
  for (int k = 0; k < kSums / 8; ++k)
#pragma unroll
    for (int r = 0; r < 4; ++r) a[k][r] = pack(sums[8 * k + 2 * r], sums[8 * k + 2 * r + 1]);
}

}  // namespace megabyte::cuda
