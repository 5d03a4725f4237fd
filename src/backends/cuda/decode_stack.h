// All blocks of a stage at one new position of up to 16 rows, as one kernel
// (Backend::decode_stack).
#pragma once

#include "backends/cuda/context.h"
#include "ops/ops.h"

namespace megabyte::cuda {

class StackKernel {
 public:
  explicit StackKernel(Context& context) : context_(context) {}
  // Arguments as in ops/ops.h; false where the kernel is not made for them.
  bool run(const DecodeShape& shape, const DecodeStack& stack, const Tensor& x, const Tensor& delta,
           const Tensor& sum, const Tensor& y);

 private:
  Context& context_;
  Buffer exchanges_[2][3];  // of widths 1024, 2048; 1, up to 8, up to 16 rows; from a first run on
};

}  // namespace megabyte::cuda
