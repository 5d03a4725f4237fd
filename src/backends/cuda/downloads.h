// Copies to the host that let the device go on: through pinned memory, with an event for each.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace megabyte::cuda {

class Downloads {
 public:
  explicit Downloads(cudaStream_t stream) : stream_(stream) {}

  // Backend::fetch. The function may outlive this object.
  std::function<void()> start(void* dst, const void* src, size_t bytes);

 private:
  struct Slot;

  cudaStream_t stream_;
  std::vector<std::shared_ptr<Slot>> slots_;  // free where nobody else holds them
};

}  // namespace megabyte::cuda
