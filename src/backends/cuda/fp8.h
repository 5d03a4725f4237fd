// Linear layers whose products are taken in 8 bits, where that is faster: operands are converted on
// their way in (quantise.h), results stay in bf16, gradients of parameters in f32.
#pragma once

#include "backends/cuda/context.h"
#include "backends/cuda/products.h"
#include "backends/cuda/quantise.h"
#include "base/arena.h"
#include "ops/ops.h"

namespace megabyte::cuda {

// Arguments as in ops/ops.h, already checked by backend.cpp; activations and matrices in bf16.
class Fp8Layers {
 public:
  // Error when the device has no such products.
  Fp8Layers(Context& context, Products& products);

  // Do the products of a linear layer (M, K) -> (M, N) gain more than converting their operands
  // costs?
  static bool pays(int64_t M, int64_t N, int64_t K);

  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);
  void linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& dw,
                       const Tensor& dbias, const Tensor& dx);
  // With gelu. Where `pre` is given, `hidden` keeps the activation for backward, transposed and in
  // 8 bits; else it is scratch.
  void feed_forward(const FeedForward& w, const Tensor& x, const Tensor& pre, const Tensor& hidden,
                    const Tensor& y);
  void feed_forward_backward(const FeedForward& w, const Tensor& dy, const Tensor& x,
                             const Tensor& pre, const Tensor& hidden, const Tensor& dhidden,
                             const FeedForward& dw, const Tensor& dx);

 private:
  // A matrix in 8 bits as a factor of products, as it is or transposed, on either side.
  struct Operand {
    Quantised memory;
    int64_t rows, cols;
    cudaDataType_t type = CUDA_R_8F_E4M3;

    Matrix left() const;              // (rows, cols) . other
    Matrix left_transposed() const;   // (rows, cols)^T . other
    Matrix right() const;             // other . (rows, cols)
    Matrix right_transposed() const;  // other . (rows, cols)^T
  };
  static constexpr unsigned as_it_is = 1, turned = 2, with_sums = 4;  // forms of an operand

  // Calls plan(arena) twice: to learn how much scratch memory it takes, and with that memory.
  template <class Plan>
  void in_scratch(const Plan& plan);
  // The index-th operand of an operation, not converted yet.
  Operand operand(Arena& arena, int64_t rows, int64_t cols, unsigned form, int index) const;

  void convert(const Tensor& x, Operand& to, Fp8 format);
  void multiply(const Matrix& a, const Matrix& b, const Tensor& result, bool add,
                const Tensor& workspace, const Epilogue& epilogue = {});
  // y = x . w^T + bias
  void forward_product(const Operand& x, const Operand& w, const Tensor& bias, const Tensor& y,
                       const Tensor& bias_scratch, const Tensor& workspace);
  // dw += dy^T . x, dbias += the sums of dy
  void weight_product(const Operand& dy, const Operand& x, const Tensor& dw, const Tensor& dbias,
                      const Tensor& workspace);
  QuantiseState* state() const;

  Context& context_;
  Products& products_;
  Buffer state_;  // QuantiseState, then the inverse scales of the operands of one operation
};

}  // namespace megabyte::cuda
