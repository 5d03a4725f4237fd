#include "backends/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "backends/cuda/check.h"
#include "base/error.h"

namespace megabyte::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver that is there: no program needs to be linked with it.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr auto kName = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
  check_cuda(cudaGetDriverEntryPointByVersion(kName, &function, 12000, cudaEnableDefault, &found),
             kName);
#else
  check_cuda(cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found), kName);
#endif
  if (found != cudaDriverEntryPointSuccess) fail("the CUDA driver has no {}", kName);
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap map_of_rows(const __nv_bfloat16* data, int64_t rows, int64_t positions, int64_t width) {
  static const Encode encode = find_encode();
  const auto size = [](int64_t x) { return static_cast<cuuint64_t>(x); };
  const cuuint64_t sizes[] = {size(width), size(positions), size(rows)};
  const cuuint64_t strides[] = {size(width) * sizeof *data, size(width * positions) * sizeof *data};
  const cuuint32_t box[] = {kMapColumns, kMapRows, 1}, steps[] = {1, 1, 1};
  CUtensorMap map{};
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<__nv_bfloat16*>(data), sizes,
             strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail("{} rows of {} positions of width {} cannot be mapped for copies (CUDA error {})", rows,
         positions, width, static_cast<int>(result));
  return map;
}

}  // namespace megabyte::cuda
