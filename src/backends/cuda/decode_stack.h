// All blocks of a stage at one new position of one row, as one kernel (Backend::decode_stack).
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
  Buffer exchange_;  // from the first run on; zeros at first
};

}  // namespace megabyte::cuda
