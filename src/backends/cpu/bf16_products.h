// Matrix products of bf16 on processors with AVX512_BF16, with what oneDNN leaves to passes of
// their own done on the way: activations and their gradients in registers before a tile is stored,
// bias gradients while rows are packed.
#pragma once

#include "backends/cpu/parallel.h"
#include "ops/ops.h"

namespace megabyte::cpu {

bool has_bf16_products();  // does this processor multiply bf16?

// The products of ops/ops.h, all of bf16 operands. They sum pairs of neighbours, so the number of
// terms (K; N for the input's gradient; M for the weight's) must be even.
void bf16_linear_forward(Threads& threads, const Tensor& x, const Tensor& w, const Tensor& bias,
                         Activation activation, const Tensor& pre, const Tensor& y);
void bf16_linear_backward_input(Threads& threads, const Tensor& dy, const Tensor& w,
                                Activation activation, const Tensor& saved, const Tensor& dx);
void bf16_linear_backward_weight(Threads& threads, const Tensor& dy, const Tensor& x,
                                 const Tensor& dw, const Tensor& dbias);

}  // namespace megabyte::cpu
