// What every operation on the device shares: one stream, scratch memory, cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "backends/cuda/check.h"
#include "ops/ops.h"

namespace megabyte::cuda {

// All operations of a backend run on one stream in the order of their calls. Nothing in them waits
// for the device, and nothing allocates once scratch() has grown to what a step needs, so that a
// whole step may be captured in a graph.
class Context {
 public:
  Context();  // Error when there is no usable device
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  cudaStream_t stream() {
    enqueue_put_off();
    overlaps_ = false;
    return stream_;
  }
  // The same for kernels that know how to start early (overlap.cuh). May the next one do so: was
  // the last work on the stream such a kernel, too?
  cudaStream_t overlapped_stream() {
    enqueue_put_off();
    overlaps_ = true;
    return stream_;
  }
  bool overlaps() const { return overlaps_; }
  // `work` enqueues something that comes before all that follows: called once, before anything else
  // asks for the stream. (Downloads keep it: nothing is fetched while something is put off.)
  void put_off(std::function<void()> work) { put_off_ = std::move(work); }
  cublasLtHandle_t cublas_handle() const { return cublas_; }
  int multiprocessors() const { return multiprocessors_; }
  int shared_memory() const { return shared_memory_; }  // bytes that a block can have at most
  const std::string& device_name() const { return name_; }
  bool multiplies_fp8() const { return multiplies_fp8_; }

  // At least `bytes` of scratch memory, aligned to Arena::kAlignment; valid until the next call.
  void* scratch(size_t bytes);
  template <class T>
  T* scratch_of(int64_t count) {
    return static_cast<T*>(scratch(static_cast<size_t>(count) * sizeof(T)));
  }

  // A graph of what `work` enqueues (Backend::record). It goes on using the scratch memory of now.
  std::unique_ptr<Recording> record(const std::function<void()>& work);

  // kArrivals zeros, in which the blocks of a kernel count how many of them are done; it leaves
  // zeros.
  static constexpr int64_t kArrivals = 1024;
  unsigned* arrivals() const { return reinterpret_cast<unsigned*>(arrivals_.data()); }

  // Copies from pageable memory through pinned memory: `src` may be reused at once, and nothing
  // waits for earlier work on the stream.
  void upload(void* dst, const void* src, size_t bytes);

 private:
  void enqueue_put_off() {
    if (put_off_) std::exchange(put_off_, {})();
  }

  static constexpr size_t kStagingBytes = size_t{4} << 20;
  static constexpr int kStagings = 2;

  cudaStream_t stream_ = nullptr;
  bool overlaps_ = false;
  std::function<void()> put_off_;
  cublasLtHandle_t cublas_ = nullptr;
  int multiprocessors_ = 0, shared_memory_ = 0;
  bool multiplies_fp8_ = false;
  std::string name_;
  std::shared_ptr<Buffer> scratch_ = std::make_shared<Buffer>();
  bool recording_ = false;
  Buffer arrivals_;
  std::byte* staging_ = nullptr;  // kStagings pieces, used in turn
  cudaEvent_t staged_[kStagings] = {};
  int next_staging_ = 0;
};

// Device memory; Error that says how much was asked for and how much there is.
Buffer allocate_on_device(size_t bytes);
// The most bytes that were allocated there at once.
size_t peak_device_memory();
// Why no device can be used; empty when one can.
std::string why_no_device();

}  // namespace megabyte::cuda
