#include "backends/cuda/fp8.h"

#include "backends/cuda/cublas.h"
#include "backends/cuda/kernels.h"
#include "base/error.h"

namespace megabyte::cuda {
namespace {

constexpr int kOperands = 4;  // of one operation, in scratch memory
// Bytes in state_ of QuantiseState and of each inverse scale; the library wants scales at multiples
// of 16.
constexpr size_t kPiece = 256;

Tensor workspace_in(Arena& arena) {
  return arena.make({static_cast<int64_t>(Products::kWorkspace)}, DType::u8);
}

}  // namespace

Fp8Layers::Fp8Layers(Context& context, Products& products)
    : context_(context), products_(products) {
  if (!context.multiplies_fp8())
    fail(
        "products in fp8 need a GPU of compute capability 8.9 or later, and this is a {}: use "
        "--dtype bf16",
        context.device_name());
  state_ = allocate_on_device((1 + kOperands) * kPiece);
  check_cuda(cudaMemsetAsync(state_.data(), 0, state_.bytes(), context.stream()), "fp8");
}

// In bytes moved: what the three products save, at the rates of bf16 and fp8 (750 and 1250 TFLOP/s
// on an H200, beside 3.5 TB/s of memory), against reading the operands and writing them in 8 bits:
// x and w in forward and again, transposed, in backward, dy once in both forms.
bool Fp8Layers::pays(int64_t M, int64_t N, int64_t K) {
  constexpr int64_t kProductsPerByte = 90;  // M N K whose three products save the time of a byte
  return M % 16 == 0 && N % 16 == 0 && K % 16 == 0 &&
         M * N * K >= kProductsPerByte * (M * (6 * K + 4 * N) + 6 * N * K);
}

Matrix Fp8Layers::Operand::left() const {
  return {memory.values, type, rows, cols, false, memory.inverse_scale};
}
Matrix Fp8Layers::Operand::left_transposed() const {
  return {memory.transposed, type, cols, rows, false, memory.inverse_scale};
}
Matrix Fp8Layers::Operand::right() const {
  return {memory.transposed, type, cols, rows, true, memory.inverse_scale};
}
Matrix Fp8Layers::Operand::right_transposed() const {
  return {memory.values, type, rows, cols, true, memory.inverse_scale};
}

template <class Plan>
void Fp8Layers::in_scratch(const Plan& plan) {
  Arena measure;
  plan(measure);
  Arena arena(static_cast<std::byte*>(context_.scratch(measure.peak())));
  plan(arena);
}

Fp8Layers::Operand Fp8Layers::operand(Arena& arena, int64_t rows, int64_t cols, unsigned form,
                                      int index) const {
  check(index >= 0 && index < kOperands, "fp8: operands");
  Operand o{{}, rows, cols};
  if (form & as_it_is) o.memory.values = arena.make({rows, cols}, DType::u8).data;
  if (form & turned) o.memory.transposed = arena.make({cols, rows}, DType::u8).data;
  if (form & with_sums)
    o.memory.partial_sums =
        static_cast<float*>(arena.make({sum_pieces(context_, rows, cols), cols}, DType::f32).data);
  o.memory.inverse_scale =
      reinterpret_cast<float*>(state_.data() + static_cast<size_t>(1 + index) * kPiece);
  return o;
}

QuantiseState* Fp8Layers::state() const { return reinterpret_cast<QuantiseState*>(state_.data()); }

void Fp8Layers::convert(const Tensor& x, Operand& to, Fp8 format) {
  to.type = format == Fp8::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
  quantise(context_, x, format, state(), to.memory);
}

void Fp8Layers::multiply(const Matrix& a, const Matrix& b, const Tensor& result, bool add,
                         const Tensor& workspace, const Epilogue& epilogue) {
  if (!products_.multiply(a, b, result, add, epilogue, workspace.data))
    fail("cuBLASLt {} has no product in fp8 for matrices {}x{} and {}x{} on {}: use --dtype bf16",
         cublas().version(), a.rows, a.cols, b.cols, b.rows, context_.device_name());
}

void Fp8Layers::forward_product(const Operand& x, const Operand& w, const Tensor& bias,
                                const Tensor& y, const Tensor& bias_scratch,
                                const Tensor& workspace) {
  if (bias) cuda::convert(context_, bias, bias_scratch);  // the library takes it in the type of y
  multiply(x.left(), w.right_transposed(), y, false, workspace,
           {bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
            bias ? bias_scratch.data : nullptr});
}

void Fp8Layers::weight_product(const Operand& dy, const Operand& x, const Tensor& dw,
                               const Tensor& dbias, const Tensor& workspace) {
  multiply(dy.left_transposed(), x.right(), dw, true, workspace);
  if (dbias)
    add_partial_sums(context_, dy.memory.partial_sums, sum_pieces(context_, dy.rows, dy.cols),
                     dy.cols, dbias.as<float>());
}

void Fp8Layers::linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& y) {
  Operand x8, w8;
  Tensor workspace, bias16;
  in_scratch([&](Arena& arena) {
    workspace = workspace_in(arena);
    bias16 = arena.make({w.shape[0]}, DType::bf16);
    x8 = operand(arena, x.shape[0], x.shape[1], as_it_is, 0);
    w8 = operand(arena, w.shape[0], w.shape[1], as_it_is, 1);
  });
  convert(x, x8, Fp8::e4m3);
  convert(w, w8, Fp8::e4m3);
  forward_product(x8, w8, bias, y, bias16, workspace);
}

void Fp8Layers::linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w,
                                const Tensor& dw, const Tensor& dbias, const Tensor& dx) {
  Operand dy8, x8, w8;
  Tensor workspace;
  in_scratch([&](Arena& arena) {
    workspace = workspace_in(arena);
    dy8 = operand(arena, dy.shape[0], dy.shape[1], as_it_is | turned | (dbias ? with_sums : 0u), 0);
    x8 = operand(arena, x.shape[0], x.shape[1], turned, 1);
    w8 = operand(arena, w.shape[0], w.shape[1], turned, 2);
  });
  convert(dy, dy8, Fp8::e5m2);
  convert(x, x8, Fp8::e4m3);
  convert(w, w8, Fp8::e4m3);
  weight_product(dy8, x8, dw, dbias, workspace);
  multiply(dy8.left(), w8.right(), dx, false, workspace);
}

namespace {

// Where `hidden` (2 M F bytes) keeps the inverse scale: behind the activation in 8 bits.
float* kept_scale(const Tensor& hidden) {
  return reinterpret_cast<float*>(static_cast<std::byte*>(hidden.data) + hidden.size());
}

}  // namespace

void Fp8Layers::feed_forward(const FeedForward& w, const Tensor& x, const Tensor& pre,
                             const Tensor& hidden, const Tensor& y) {
  const int64_t M = x.shape[0], D = x.shape[1], F = w.up.shape[0];
  Operand x8, up8, hidden8, down8;
  Tensor workspace, up_bias16, down_bias16;
  in_scratch([&](Arena& arena) {
    workspace = workspace_in(arena);
    up_bias16 = arena.make({F}, DType::bf16);
    down_bias16 = arena.make({D}, DType::bf16);
    x8 = operand(arena, M, D, as_it_is, 0);
    up8 = operand(arena, F, D, as_it_is, 1);
    hidden8 = operand(arena, M, F, y ? as_it_is : 0u, 2);
    down8 = operand(arena, D, F, y ? as_it_is : 0u, 3);
  });
  convert(x, x8, Fp8::e4m3);
  convert(w.up, up8, Fp8::e4m3);
  forward_product(x8, up8, w.up_bias, pre ? pre : hidden, up_bias16, workspace);
  if (pre) {
    hidden8.memory.transposed = hidden.data;
    hidden8.memory.inverse_scale = kept_scale(hidden);
  }
  quantise_gelu(context_, pre ? pre : hidden, state(), hidden8.memory);
  if (!y) return;
  convert(w.down, down8, Fp8::e4m3);
  forward_product(hidden8, down8, w.down_bias, y, down_bias16, workspace);
}

void Fp8Layers::feed_forward_backward(const FeedForward& w, const Tensor& dy, const Tensor& x,
                                      const Tensor& pre, const Tensor& hidden,
                                      const Tensor& dhidden, const FeedForward& dw,
                                      const Tensor& dx) {
  const int64_t M = x.shape[0], D = x.shape[1], F = w.up.shape[0];
  Operand dy8, w8, dhidden8, x8;
  Tensor workspace;
  in_scratch([&](Arena& arena) {
    workspace = workspace_in(arena);
    dy8 = operand(arena, M, D, as_it_is | turned | (dw.down_bias ? with_sums : 0u), 0);
    w8 = operand(arena, D, F, turned, 1);
    dhidden8 = operand(arena, M, F, as_it_is | turned | (dw.up_bias ? with_sums : 0u), 2);
    x8 = operand(arena, M, D, turned, 3);
  });
  convert(dy, dy8, Fp8::e5m2);
  convert(w.down, w8, Fp8::e4m3);
  const Operand hidden8{{.transposed = hidden.data, .inverse_scale = kept_scale(hidden)}, M, F};
  weight_product(dy8, hidden8, dw.down, dw.down_bias, workspace);
  multiply(dy8.left(), w8.right(), dhidden, false, workspace);

  dhidden8.type = CUDA_R_8F_E5M2;
  quantise_gelu_backward(context_, dhidden, pre, state(), dhidden8.memory);
  convert(x, x8, Fp8::e4m3);
  w8.rows = F, w8.cols = D;  // up in the place of down
  convert(w.up, w8, Fp8::e4m3);
  weight_product(dhidden8, x8, dw.up, dw.up_bias, workspace);
  multiply(dhidden8.left(), w8.right(), dx, false, workspace);
}

}  // namespace megabyte::cuda
