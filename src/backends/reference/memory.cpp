#include <cstring>

#include "backends/factories.h"
#include "backends/reference/backend.h"
#include "backends/reference/elements.h"
#include "ops/host_memory.h"

namespace megabyte::reference {

double load(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::f64:
      return t.as<double>()[i];
    case DType::f32:
      return t.as<float>()[i];
    case DType::bf16:
      return static_cast<float>(t.as<bf16>()[i]);
    default:
      fail_check("an element of a floating-point tensor", __FILE__, __LINE__);
  }
}

void store(const Tensor& t, int64_t i, double x) {
  switch (t.dtype) {
    case DType::f64:
      t.as<double>()[i] = x;
      return;
    case DType::f32:
      t.as<float>()[i] = static_cast<float>(x);
      return;
    case DType::bf16:
      t.as<bf16>()[i] = bf16(static_cast<float>(x));
      return;
    default:
      fail_check("an element of a floating-point tensor", __FILE__, __LINE__);
  }
}

Buffer ReferenceBackend::allocate(size_t bytes) { return allocate_on_host(bytes); }

void ReferenceBackend::from_host(const Tensor& dst, const void* src) {
  std::memcpy(dst.data, src, dst.bytes());
}

void ReferenceBackend::to_host(void* dst, const Tensor& src) {
  std::memcpy(dst, src.data, src.bytes());
}

void ReferenceBackend::zero(const Tensor& x) { std::memset(x.data, 0, x.bytes()); }

void ReferenceBackend::convert(const Tensor& src, const Tensor& dst) {
  check(src.size() == dst.size(), "convert: sizes differ");
  for (int64_t i = 0; i < src.size(); ++i) store(dst, i, load(src, i));
}

void ReferenceBackend::copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst,
                                 int64_t dst_stride, int64_t rows, int64_t cols) {
  copy_rows_on_host(src, src_stride, dst, dst_stride, rows, cols);
}

void ReferenceBackend::add(const Tensor& a, const Tensor& b, const Tensor& out) {
  check(a.size() == out.size() && b.size() == out.size(), "add: sizes differ");
  for (int64_t i = 0; i < out.size(); ++i) store(out, i, load(a, i) + load(b, i));
}

}  // namespace megabyte::reference

namespace megabyte {

std::unique_ptr<Backend> make_reference_backend() {
  return std::make_unique<reference::ReferenceBackend>();
}

}  // namespace megabyte
