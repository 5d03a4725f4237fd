#include "backends/exact/kernels.h"

namespace megabyte::exact {

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> all;
#ifdef MEGABYTE_EXACT_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
      all.push_back(&avx512_kernels);
    if (avx2) all.push_back(&avx2_kernels);
#endif
    all.push_back(&plain_kernels);
    return all;
  }();
  return available;
}

}  // namespace megabyte::exact
