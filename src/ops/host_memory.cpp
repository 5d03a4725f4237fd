#include "ops/host_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstring>
#include <new>

#include "base/arena.h"
#include "base/error.h"

namespace megabyte {

Buffer allocate_on_host(size_t bytes) {
  // Large buffers ask for large pages: products walk them in steps of whole rows.
  constexpr size_t large = size_t{2} << 20;
  const std::align_val_t alignment{bytes < large ? Arena::kAlignment : large};
  void* data = ::operator new(bytes, alignment, std::nothrow);
  if (data == nullptr)
    fail("not enough memory: {:.1f} MiB could not be had; use a smaller batch, context or model",
         static_cast<double>(bytes) / 1048576.0);
  if (bytes >= large) madvise(data, bytes, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(data), bytes,
          [alignment](std::byte* p) { ::operator delete(p, alignment); }};
}

size_t peak_host_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

void copy_rows_on_host(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                       int64_t rows, int64_t cols) {
  check(src.dtype == dst.dtype, "copy_rows: one element type");
  check(rows >= 0 && cols >= 0, "copy_rows: a number of rows and columns");
  check(rows == 0 || ((rows - 1) * src_stride + cols <= src.size() &&
                      (rows - 1) * dst_stride + cols <= dst.size()),
        "copy_rows: the rows lie inside both tensors");
  const size_t size = size_of(src.dtype);
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(
        static_cast<std::byte*>(dst.data) + static_cast<size_t>(r * dst_stride) * size,
        static_cast<const std::byte*>(src.data) + static_cast<size_t>(r * src_stride) * size,
        static_cast<size_t>(cols) * size);
}

}  // namespace megabyte
