// Matrix products through cuBLASLt, with bias, activation and their gradients in the epilogue where
// the library offers it. An algorithm is chosen once for each shape.
#pragma once

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "backends/cuda/context.h"
#include "ops/ops.h"

namespace megabyte::cuda {

cudaDataType_t type_of(DType dtype);

// A row-major matrix; `transposed` when the product takes its transpose.
struct Matrix {
  const void* data;
  cudaDataType_t type;
  int64_t rows, cols;  // as stored
  bool transposed = false;
  const float* factor = nullptr;  // on the device, of all elements; for types of 8 bits
};

// What the library does with the product before it is stored.
struct Epilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;  // of the type of the result; with BGRADB, the sums that are written
  void* aux = nullptr;         // pre-activation, shaped like the result: written, or read by DGELU
};

class Products {
 public:
  explicit Products(Context& context) : context_(context) {}
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  static constexpr size_t kWorkspace = size_t{32} << 20;  // what NVIDIA advises for Hopper

  // result (op(a).rows, op(b).cols) = (add ? result : 0) + op(a) . op(b). False, and nothing done,
  // when the library does not offer this product. `workspace` has kWorkspace bytes. Operands of 8
  // bits: e4m3 or e5m2 (not both e5m2), a not transposed and b transposed.
  bool multiply(const Matrix& a, const Matrix& b, const Tensor& result, bool add,
                const Epilogue& epilogue, void* workspace);

 private:
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, result = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
    bool offered = false;
  };
  // m, n, k, transposes, types of operands and result, epilogue, alignments
  using Key = std::tuple<int64_t, int64_t, int64_t, bool, bool, cudaDataType_t, cudaDataType_t,
                         DType, int, uint32_t, uint32_t, uint32_t>;
  Plan make_plan(const Matrix& a, const Matrix& b, const Tensor& result,
                 const Epilogue& epilogue) const;

  static void set_factors(const Plan& plan, const Matrix& a, const Matrix& b);

  Context& context_;
  std::map<Key, Plan> plans_;
};

}  // namespace megabyte::cuda
