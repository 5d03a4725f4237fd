// Matrix products by oneDNN. Only onednn.cpp knows its types.
#pragma once

#include <cstdint>
#include <memory>

#include "base/tensor.h"

namespace megabyte::cpu {

// A matrix as an operand: rows x cols elements at data, or its transpose when `transposed`.
struct Matrix {
  const Tensor& tensor;  // stored row-major
  int64_t rows, cols;    // as the operand
  bool transposed = false;
};

class Products {
 public:
  explicit Products(int threads);
  ~Products();

  // c (rows of a, cols of b) = a . b + bias (cols of b, f32, or none), or += where `accumulate`.
  void multiply(const Matrix& a, const Matrix& b, const Tensor& bias, const Tensor& c,
                bool accumulate);

  static const char* description();  // "oneDNN 2.6.3"
  static bool take_bf16();           // on processors with AVX-512

 private:
  struct Cache;
  int threads_;
  std::unique_ptr<Cache> cache_;  // primitives by shape: making one costs milliseconds
};

}  // namespace megabyte::cpu
