// What a backend that only runs models forward refuses.
#pragma once

#include "ops/ops.h"

namespace megabyte::exact {

// Only backward passes turn back, and linear attention that turns a window for each patch.
inline void refuse_to_turn_back(bool inverse) {
  if (inverse)
    fail(
        "the exact backend does not run linear attention across patches (cross_patch) with rotary "
        "positions: use --device cpu or cuda");
}

// Base: Backend, or a class that implements a part of it.
template <class Base>
class ForwardOnly : public Base {
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
    fail("the {} backend only runs models forward: train with --device cpu or cuda", this->name());
  }
};

}  // namespace megabyte::exact
