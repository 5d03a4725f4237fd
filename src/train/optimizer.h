// AdamW over the flat buffers of a model's parameters: one call for each run of tensors that are
// updated alike.
#pragma once

#include <vector>

#include "model/parameters.h"
#include "ops/ops.h"

namespace megabyte {

class Optimizer {
 public:
  // stage_lr: factors of the learning rate, coarsest stage first; 1 for stages beyond its end.
  Optimizer(Backend& backend, const Parameters& parameters, const std::vector<double>& stage_lr);

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

  struct Part {  // neighbouring elements with one rate and one decay
    int64_t begin, count;
    bool decayed;
    double lr;  // factor
  };
  std::vector<Part> parts_;
};

}  // namespace megabyte
