// What every backend on the device has: memory, copies, recording, and the operations that only
// move and add, whose results are the same whoever computes them.
#pragma once

#include <functional>
#include <memory>

#include "backends/cuda/context.h"
#include "backends/cuda/downloads.h"
#include "ops/ops.h"

namespace megabyte::cuda {

class DeviceBackend : public Backend {
 public:
  bool asynchronous() const override { return true; }
  std::unique_ptr<Recording> record(const std::function<void()>& work, int64_t) override {
    return context_.record(work);
  }

  size_t peak_memory() const override { return peak_device_memory(); }
  Buffer allocate(size_t bytes) override { return allocate_on_device(bytes); }
  void from_host(const Tensor& dst, const void* src) override {
    context_.upload(dst.data, src, dst.bytes());
  }
  void to_host(void* dst, const Tensor& src) override;
  std::function<void()> fetch(void* dst, const Tensor& src) override {
    return downloads_.start(dst, src.data, src.bytes());
  }
  void synchronize() override;
  void zero(const Tensor& x) override;
  void convert(const Tensor& src, const Tensor& dst) override;
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override;

  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override;
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override;
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override;
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override;
  void cache_keys(const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                  const Tensor& values) override;
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override;

 protected:
  Context context_;

 private:
  Downloads downloads_{context_.stream()};
};

}  // namespace megabyte::cuda
