// How each backend is made; the registry (ops/registry.cpp) is the only caller.
#pragma once

#include <memory>
#include <string>

#include "ops/ops.h"

namespace megabyte {

std::unique_ptr<Backend> make_reference_backend();
std::unique_ptr<Backend> make_cpu_backend(int threads);  // only where MEGABYTE_CPU is ON
// The numbers are the same with every instruction set; `kernels` names the one to use ("plain",
// "avx2", "avx512"), the fastest of this machine when empty.
std::unique_ptr<Backend> make_exact_backend(int threads, const std::string& kernels = "");
// Only where MEGABYTE_CUDA is ON; Error that says what is missing.
std::unique_ptr<Backend> make_cuda_backend();
std::unique_ptr<Backend> make_exact_cuda_backend();
std::string why_no_cuda_device();  // empty when there is one

}  // namespace megabyte
