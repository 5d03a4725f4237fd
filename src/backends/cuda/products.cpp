#include "backends/cuda/products.h"

#include <algorithm>
#include <utility>

#include "backends/cuda/cublas.h"
#include "base/error.h"

namespace megabyte::cuda {
namespace {

bool of_8_bits(cudaDataType_t type) { return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2; }

// The power of two, at most 256, that an address is a multiple of.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

constexpr const char* kOperation = "product";

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_cublas(cublas().description_set(operation, attribute, &value, sizeof(T)), kOperation);
}

template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  check_cublas(cublas().preference_set(preference, attribute, &value, sizeof(T)), kOperation);
}

}  // namespace

cudaDataType_t type_of(DType dtype) {
  check(dtype == DType::f32 || dtype == DType::bf16, "the cuda backend computes in f32 or bf16");
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

Products::~Products() {
  for (auto& [key, plan] : plans_) {
    cublas().layout_destroy(plan.result);
    cublas().layout_destroy(plan.b);
    cublas().layout_destroy(plan.a);
    cublas().description_destroy(plan.operation);
  }
}

void Products::set_factors(const Plan& plan, const Matrix& a, const Matrix& b) {
  set(plan.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.factor);
  set(plan.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.factor);
}

// cuBLAS counts columns first: a row-major matrix is its transpose. So result^T (n, m) = op(b)^T .
// op(a)^T: the operands change places, each as it is stored.
Products::Plan Products::make_plan(const Matrix& a, const Matrix& b, const Tensor& result,
                                   const Epilogue& epilogue) const {
  const int64_t m = a.transposed ? a.cols : a.rows, n = b.transposed ? b.rows : b.cols;
  Plan plan;
  const auto layout = [](cublasLtMatrixLayout_t* out, cudaDataType_t type, int64_t rows,
                         int64_t cols) {
    check_cublas(cublas().layout_create(out, type, static_cast<uint64_t>(cols),
                                        static_cast<uint64_t>(rows), cols),
                 kOperation);
  };
  layout(&plan.a, b.type, b.rows, b.cols);
  layout(&plan.b, a.type, a.rows, a.cols);
  layout(&plan.result, type_of(result.dtype), m, n);
  // Not CUBLAS_COMPUTE_32F_FAST_TF32: f32 means f32.
  check_cublas(cublas().description_create(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               kOperation);
  const auto operation_of = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, operation_of(b.transposed));
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, operation_of(a.transposed));
  set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue.kind);
  if (epilogue.bias != nullptr)
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
  if (epilogue.aux != nullptr) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.aux);
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, n);
  }
  if (of_8_bits(a.type)) set_factors(plan, a, b);

  cublasLtMatmulPreference_t preference = nullptr;
  check_cublas(cublas().preference_create(&preference), kOperation);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(b.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(a.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(result.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(result.data));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublas().heuristic(context_.cublas_handle(), plan.operation, plan.a, plan.b, plan.result,
                         plan.result, preference, 1, &found, &count);
  cublas().preference_destroy(preference);
  plan.offered = status == CUBLAS_STATUS_SUCCESS && count > 0;
  plan.algorithm = found.algo;
  return plan;
}

bool Products::multiply(const Matrix& a, const Matrix& b, const Tensor& result, bool add,
                        const Epilogue& epilogue, void* workspace) {
  const int64_t m = a.transposed ? a.cols : a.rows, n = b.transposed ? b.rows : b.cols;
  const int64_t k = a.transposed ? a.rows : a.cols;
  check((a.type == b.type || (of_8_bits(a.type) && of_8_bits(b.type))) &&
            k == (b.transposed ? b.cols : b.rows) && result.size() == m * n,
        "product: shapes and types");
  const Key key{m,
                n,
                k,
                a.transposed,
                b.transposed,
                a.type,
                b.type,
                result.dtype,
                static_cast<int>(epilogue.kind),
                alignment_of(a.data),
                alignment_of(b.data),
                alignment_of(result.data)};
  auto found = plans_.find(key);
  if (found == plans_.end()) found = plans_.emplace(key, make_plan(a, b, result, epilogue)).first;
  const Plan& plan = found->second;
  if (!plan.offered) return false;
  if (epilogue.bias != nullptr)
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
  if (epilogue.aux != nullptr)
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.aux);
  if (of_8_bits(a.type)) set_factors(plan, a, b);
  const float one = 1, beta = add ? 1 : 0;
  check_cublas(
      cublas().matmul(context_.cublas_handle(), plan.operation, &one, b.data, plan.a, a.data,
                      plan.b, &beta, result.data, plan.result, result.data, plan.result,
                      &plan.algorithm, workspace, kWorkspace, context_.stream()),
      kOperation);
  return true;
}

}  // namespace megabyte::cuda
