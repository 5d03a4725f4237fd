// Errors of CUDA and its libraries as the project's exception, with the operation's name.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace megabyte::cuda {

[[noreturn]] void fail_cuda(cudaError_t status, const char* operation);
[[noreturn]] void fail_cublas(cublasStatus_t status, const char* operation);

inline void check_cuda(cudaError_t status, const char* operation) {
  if (status != cudaSuccess) fail_cuda(status, operation);
}
inline void check_cublas(cublasStatus_t status, const char* operation) {
  if (status != CUBLAS_STATUS_SUCCESS) fail_cublas(status, operation);
}
// After a launch: was the kernel accepted? (What goes wrong while it runs shows at the next wait.)
inline void check_launch(const char* operation) { check_cuda(cudaGetLastError(), operation); }

}  // namespace megabyte::cuda
