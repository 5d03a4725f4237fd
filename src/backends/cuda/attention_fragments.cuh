// Operands of mma.m16n8k16 (bf16, f32 accumulation) taken straight from rows in device memory.
//
// Lane l of a warp is (g, c) = (l / 4, l % 4). The instruction fixes which elements of A (16 x 16),
// B (16 x 8) and C (16 x 8) a lane holds:
//   A: rows g, g + 8; columns 2c, 2c + 1, 2c + 8, 2c + 9     B: rows (k) like these, column g
//   C: rows g, g + 8; columns 2c, 2c + 1
// The order of the summed index is free as long as A and B agree, and so is the order of B's
// columns as long as the result is stored in the same order. Both freedoms make every access 16
// neighbouring bytes a lane: along rows in RowTile (summed over the row), across rows in ColumnTile
// (summed over the rows).
#pragma once

#include <type_traits>

#include "backends/cuda/attention_rows.cuh"

namespace megabyte::cuda {

using bf16 = __nv_bfloat16;

__device__ inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// The transpose of an 8 x 8 block whose row g lies in the four lanes of g.
__device__ inline uint32_t transpose(uint32_t block) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(block));
  return result;
}

// 2^x, within 2 units in the last place.
__device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}

// A 16 x 16 tile of f32 sums: rows g, g + 8 (i = 0, 1), columns 8 j + 2c, 8 j + 2c + 1 (e = 0, 1).
struct ScoreTile {
  float v[2][4] = {};  // [j][2 i + e]

  // As operand A in bf16.
  __device__ void pack_rows(uint32_t (&a)[4]) const {
    a[0] = pack(v[0][0], v[0][1]);
    a[1] = pack(v[0][2], v[0][3]);
    a[2] = pack(v[1][0], v[1][1]);
    a[3] = pack(v[1][2], v[1][3]);
  }
};

// Rows g and g + 8 of 16 rows of D elements, for products summed over D: as A and as B alike.
template <int D>
struct RowTile {
  uint4 v[2][D / 32];

  // row0, row1: the first elements of rows g and g + 8.
  __device__ void load(const bf16* row0, const bf16* row1) {
    const unsigned c = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < D / 32; ++k) {
      v[0][k] = *reinterpret_cast<const uint4*>(row0 + k * 32 + c * 8);
      v[1][k] = *reinterpret_cast<const uint4*>(row1 + k * 32 + c * 8);
    }
  }

  // Sum over this lane's elements of row i.
  __device__ float dot(const RowTile& other, int i) const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < D / 32; ++k) {
      const auto* a = reinterpret_cast<const __nv_bfloat162*>(&v[i][k]);
      const auto* b = reinterpret_cast<const __nv_bfloat162*>(&other.v[i][k]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = __bfloat1622float2(a[e]), y = __bfloat1622float2(b[e]);
        sum = fmaf(x.x, y.x, fmaf(x.y, y.y, sum));
      }
    }
    return sum;
  }
};

// a . b^T
template <int D>
__device__ ScoreTile product(const RowTile<D>& a, const RowTile<D>& b) {
  ScoreTile s;
#pragma unroll
  for (int k = 0; k < D / 32; ++k)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      mma(s.v[j], a.v[0][k].x, a.v[1][k].x, a.v[0][k].y, a.v[1][k].y, b.v[j][k].x, b.v[j][k].y);
      mma(s.v[j], a.v[0][k].z, a.v[1][k].z, a.v[0][k].w, a.v[1][k].w, b.v[j][k].z, b.v[j][k].w);
    }
  return s;
}

// How D columns are dealt: in groups of 8 chunks of kColumns neighbours (16 or 8 bytes). Column n
// of product j is element j of chunk n / 2 + 4 (n % 2), so that the four lanes of a row of C hold
// neighbouring chunks.
template <int D>
struct ColumnDeal {
  static constexpr int kColumns = D % 64 == 0 ? 8 : 4;
  static constexpr int kGroups = D / (8 * kColumns);
  using Chunk = std::conditional_t<kColumns == 8, uint4, uint2>;
};

// 16 rows of D elements, for products summed over the rows: operand B.
template <int D>
struct ColumnTile {
  using Deal = ColumnDeal<D>;
  typename Deal::Chunk v[Deal::kGroups][4];  // rows 2c, 2c + 1, 2c + 8, 2c + 9

  // rows: the first elements of those four rows.
  __device__ void load(const bf16* const (&rows)[4]) {
    const unsigned g = threadIdx.x % 32 / 4;
    const unsigned at = ((g & 1) * 4 + (g >> 1)) * Deal::kColumns;
#pragma unroll
    for (int i = 0; i < Deal::kGroups; ++i)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        v[i][r] =
            *reinterpret_cast<const typename Deal::Chunk*>(rows[r] + i * 8 * Deal::kColumns + at);
  }
};

// 16 x D sums.
template <int D>
struct OutTile {
  using Deal = ColumnDeal<D>;
  float v[Deal::kGroups][Deal::kColumns][4] = {};

  // Adds a . b, a (16 x 16) as ScoreTile::pack_rows gives it.
  __device__ void add(const uint32_t (&a)[4], const ColumnTile<D>& b) {
#pragma unroll
    for (int i = 0; i < Deal::kGroups; ++i)
#pragma unroll
      for (int j = 0; j < Deal::kColumns; ++j) {
        const auto word = [&](int row) {
          return reinterpret_cast<const uint32_t*>(&b.v[i][row])[j / 2];
        };
        const unsigned half = j % 2 == 0 ? 0x5410 : 0x7632;
        mma(v[i][j], a[0], a[1], a[2], a[3], __byte_perm(word(0), word(1), half),
            __byte_perm(word(2), word(3), half));
      }
  }

  // Multiplies row g + 8 i.
  __device__ void scale(int i, float factor) {
#pragma unroll
    for (auto& group : v)
#pragma unroll
      for (auto& sums : group) {
        sums[2 * i] *= factor;
        sums[2 * i + 1] *= factor;
      }
  }

  // Writes row g + 8 i to `to`.
  __device__ void store(int i, bf16* to) const {
    const unsigned c = threadIdx.x % 4;
#pragma unroll
    for (int group = 0; group < Deal::kGroups; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        typename Deal::Chunk chunk;
#pragma unroll
        for (int j = 0; j < Deal::kColumns; j += 2)
          reinterpret_cast<uint32_t*>(&chunk)[j / 2] =
              pack(v[group][j][2 * i + half], v[group][j + 1][2 * i + half]);
        *reinterpret_cast<typename Deal::Chunk*>(to + (group * 8 + half * 4 + c) * Deal::kColumns) =
            chunk;
      }
  }
};

}  // namespace megabyte::cuda
