// AdamW over the flat buffers of a model's parameters: one call for the decayed tensors, one for
// the others.
#pragma once

#include "model/parameters.h"
#include "ops/ops.h"

namespace megabyte {

class Optimizer {
 public:
  Optimizer(Backend& backend, const Parameters& parameters);

  // One step with the gradients as they are. Changes nothing when their norm is not finite.
  void update(const AdamwStep& step);
  const Tensor& norm_sq() const { return norm_sq_; }  // (1) f64: of the last step, before clipping

  const Tensor& first_moment() const { return m_; }  // flat, laid out like the parameters
  const Tensor& second_moment() const { return v_; }

 private:
  Backend& backend_;
  const Parameters& parameters_;
  Buffer buffer_;
  Tensor m_, v_, norm_sq_;
};

}  // namespace megabyte
