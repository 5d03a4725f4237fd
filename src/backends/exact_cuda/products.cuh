// Products of int8 with sums in int32 on the tensor cores: exact in any order, so that nothing but
// the scaling of a finished sum has to be done in one way.
#pragma once

#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {

// sums += a (16, 32) . b (8, 32)^T. Which of the 32 terms a register holds does not matter as long
// as a and b agree.
__device__ inline void multiply_tiles(int (&sums)[4], int a0, int a1, int a2, int a3, int b0,
                                      int b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline float scaled(int sum, float row_scale, float output_scale, float bias) {
  return __fmaf_rn(__int2float_rn(sum), __fmul_rn(row_scale, output_scale), bias);
}

}  // namespace megabyte::exact_cuda
