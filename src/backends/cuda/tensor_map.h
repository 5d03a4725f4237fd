// Where the copy engine finds tiles of bf16 rows in device memory.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace megabyte::cuda {

// Of `data`, (rows, positions, width) in memory: boxes of kMapRows positions by kMapColumns columns
// of one row, written to shared memory in the 128-byte swizzle that wgmma reads. What lies beyond a
// row's positions arrives as 0. `data` and the width in bytes must be multiples of 16 bytes.
constexpr int kMapRows = 64, kMapColumns = 64;
CUtensorMap map_of_rows(const __nv_bfloat16* data, int64_t rows, int64_t positions, int64_t width);

}  // namespace megabyte::cuda
