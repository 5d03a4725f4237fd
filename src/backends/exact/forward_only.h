// What a backend that only runs models forward refuses.
#pragma once

#include "ops/ops.h"

namespace megabyte::exact {

class ForwardOnly : public Backend {
 public:
  void embed_backward(const EmbedShape&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      const Tensor&) override {
    refuse();
  }
  void place_backward(const PlaceShape&, const Tensor&, const Tensor&, const Tensor&,
                      const Tensor&) override {
    refuse();
  }
  void unfold_backward(const Tensor&, int64_t, int64_t, const Tensor&) override { refuse(); }
  void linear_backward_input(const Tensor&, const Tensor&, Activation, const Tensor&,
                             const Tensor&) override {
    refuse();
  }
  void activation_backward(const Tensor&, Activation, const Tensor&, const Tensor&) override {
    refuse();
  }
  void linear_backward_weight(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    refuse();
  }
  void residual_norm_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                              const Dropout&, bool, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&) override {
    refuse();
  }
  void attention_backward(const AttentionShape&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor&) override {
    refuse();
  }
  void sum_of_squares(const Tensor&, const Tensor&) override { refuse(); }
  void adamw(const AdamwStep&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
             const Tensor&, const Tensor&) override {
    refuse();
  }

 protected:
  [[noreturn]] void refuse() const {
    fail("the {} backend only runs models forward: train with --device cpu or cuda", name());
  }
};

}  // namespace megabyte::exact
