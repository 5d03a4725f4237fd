// Memory planned once: a plan is a function that carves tensors from an Arena. It runs first on a
// measuring arena (no memory behind it) to learn the size, then on the allocated one, and then
// never again: neither the training loop nor the decoding loop allocates.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace megabyte {

class Arena {
 public:
  static constexpr size_t kAlignment = 256;  // of every tensor; enough for CUDA and a cache line

  Arena() = default;  // measures only: tensors have no data
  explicit Arena(std::byte* base) : base_(base) {}

  Tensor make(const Shape& shape, DType dtype) {
    Tensor t{base_ == nullptr ? nullptr : base_ + position_, dtype, shape};
    position_ += (t.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, position_);
    return t;
  }

  // The next `bytes` as an arena of their own.
  Arena part(size_t bytes) {
    const Tensor t = make({static_cast<int64_t>(bytes)}, DType::u8);
    return Arena(static_cast<std::byte*>(t.data));
  }

  // Scratch memory: what is made after position() may be reused once rewind() is called.
  size_t position() const { return position_; }
  void rewind(size_t position) { position_ = position; }
  size_t peak() const { return peak_; }  // bytes needed in all

 private:
  std::byte* base_ = nullptr;
  size_t position_ = 0;
  size_t peak_ = 0;
};

}  // namespace megabyte
