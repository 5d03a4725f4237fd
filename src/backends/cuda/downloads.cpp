#include "backends/cuda/downloads.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/check.h"

namespace megabyte::cuda {

struct Downloads::Slot {
  void* memory = nullptr;
  size_t bytes;
  cudaEvent_t done = nullptr;

  explicit Slot(size_t size) : bytes(size) {
    check_cuda(cudaMallocHost(&memory, size), "pinned memory");
    check_cuda(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event");
  }
  ~Slot() {
    cudaEventSynchronize(done);
    cudaEventDestroy(done);
    cudaFreeHost(memory);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
};

std::function<void()> Downloads::start(void* dst, const void* src, size_t bytes) {
  auto slot = std::find_if(slots_.begin(), slots_.end(), [bytes](const auto& each) {
    return each.use_count() == 1 && each->bytes >= bytes;
  });
  if (slot == slots_.end()) slot = slots_.insert(slot, std::make_shared<Slot>(bytes));
  check_cuda(cudaMemcpyAsync((*slot)->memory, src, bytes, cudaMemcpyDeviceToHost, stream_),
             "download");
  check_cuda(cudaEventRecord((*slot)->done, stream_), "download");
  return [slot = *slot, dst, bytes] {
    check_cuda(cudaEventSynchronize(slot->done), "waiting for the device");
    std::memcpy(dst, slot->memory, bytes);
  };
}

}  // namespace megabyte::cuda
