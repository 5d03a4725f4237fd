// Memory operations of backends whose tensors lie in the host's memory.
#pragma once

#include "ops/ops.h"

namespace megabyte {

Buffer allocate_on_host(size_t bytes);  // as Backend::allocate
size_t peak_host_memory();              // of this process, bytes
void copy_rows_on_host(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                       int64_t rows, int64_t cols);  // as Backend::copy_rows

}  // namespace megabyte
