#include <algorithm>
#include <cstring>
#include <new>

#include "backends/factories.h"
#include "backends/reference/elements.h"
#include "backends/reference/reference.h"
#include "base/arena.h"

namespace megabyte {

using namespace reference;

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

Buffer ReferenceBackend::allocate(size_t bytes) {
  const std::align_val_t alignment{Arena::kAlignment};
  void* data = ::operator new(std::max<size_t>(bytes, 1), alignment, std::nothrow);
  if (data == nullptr)
    fail("out of memory: {} MiB were needed; lower the batch or the context", bytes >> 20);
  return {static_cast<std::byte*>(data), bytes,
          [alignment](std::byte* p) { ::operator delete(p, alignment); }};
}

void ReferenceBackend::from_host(const Tensor& dst, const void* src) {
  std::memcpy(dst.data, src, dst.bytes());
}

void ReferenceBackend::to_host(void* dst, const Tensor& src) {
  std::memcpy(dst, src.data, src.bytes());
}

void ReferenceBackend::zero(const Tensor& x) { std::memset(x.data, 0, x.bytes()); }

void ReferenceBackend::convert(const Tensor& src, const Tensor& dst) {
  check(src.size() == dst.size(), "convert keeps the number of elements");
  for (int64_t i = 0; i < src.size(); ++i) store(dst, i, load(src, i));
}

void ReferenceBackend::copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst,
                                 int64_t dst_stride, int64_t rows, int64_t cols) {
  check(src.dtype == dst.dtype, "copy_rows keeps the element type");
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      store(dst, r * dst_stride + c, load(src, r * src_stride + c));
}

}  // namespace megabyte
