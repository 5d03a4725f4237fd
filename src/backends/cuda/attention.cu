// Which kernel answers which attention.
#include "backends/cuda/attention.h"

#include <algorithm>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

AttentionRows rows_of(const AttentionShape& shape) {
  check(shape.queries >= 1 && shape.queries <= shape.length, "attention: 1 to length queries");
  check(shape.cross >= 0, "attention: a reach of 0 or more positions");
  check(shape.row_sequences > 0 && shape.sequences % shape.row_sequences == 0,
        "attention: whole batch rows");
  check(shape.head_dim <= 256, "attention: heads of at most 256");
  // Without a reach the rows may be cut anywhere: short sequences fill tiles together.
  constexpr int64_t kShort = 64;
  int64_t per_row = shape.row_sequences;
  if (shape.cross == 0) per_row = shape.length <= kShort ? shape.sequences : 1;
  check(per_row * shape.length <= int64_t{1} << 30, "attention: positions of a row fit 30 bits");
  const auto narrow = [](int64_t x) { return static_cast<int>(x); };
  // A reach beyond the row is one of the whole row.
  const int64_t cross = std::min(shape.cross, per_row * shape.length);
  return {narrow(shape.sequences / per_row),
          narrow(per_row),
          narrow(shape.length),
          narrow(shape.queries),
          narrow(cross),
          narrow(shape.heads),
          narrow(shape.head_dim),
          Divisor(narrow(shape.length)),
          Divisor(narrow(shape.queries))};
}

bool has_tensor_core_kernels(const AttentionRows& rows) {
  return rows.head_dim == 32 || rows.head_dim == 64 || rows.head_dim == 128;
}

// Windows from which on tiles in shared memory pay, measured on an H100.
constexpr int kLongForward = 128, kLongBackward = 128;

bool is_long(const AttentionRows& rows, int from) {
  const bool neighbours = rows.queries == rows.length || rows.sequences == 1;
  return (rows.head_dim == 64 || rows.head_dim == 128) && neighbours &&
         rows.length + rows.cross >= from && long_supported();
}

// Lengths from which on linear attention goes by running states instead of pairs.
constexpr int kLongLinear = 128;

bool goes_by_states(const AttentionRows& rows, bool linear) {
  return linear && rows.sequences == 1 && rows.cross == 0 && rows.queries == rows.length &&
         rows.length >= kLongLinear && has_tensor_core_kernels(rows);
}

size_t state_bytes(const AttentionRows& rows) {
  const LinearSegments segments = linear_segments(rows);
  if (segments.count == 1) return 0;
  return static_cast<size_t>(rows.width()) * static_cast<size_t>(rows.head_dim + 1) *
         static_cast<size_t>(rows.rows) * static_cast<size_t>(segments.count) * sizeof(float);
}

template <class T>
void forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& stats,
             cudaStream_t stream, const Workspace& workspace) {
  const AttentionRows rows = rows_of(shape);
  const AttentionForward<T> x{static_cast<const T*>(qkv.data), static_cast<T*>(out.data),
                              static_cast<float*>(stats.data)};
  if (goes_by_states(rows, shape.linear))
    return linear_forward(rows, x, static_cast<float*>(workspace(state_bytes(rows))), stream);
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    if (!shape.linear && has_tensor_core_kernels(rows))
      return is_long(rows, kLongForward) ? long_forward(rows, x, stream)
                                         : window_forward(rows, x, stream);
  general_forward(rows, shape.linear, x, stream);
}

template <class T>
void backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
              const Tensor& stats, const Tensor& dout, const Tensor& dqkv, cudaStream_t stream,
              const Workspace& workspace) {
  const AttentionRows rows = rows_of(shape);
  const bool by_states = goes_by_states(rows, shape.linear);
  constexpr bool kNarrow = std::is_same_v<T, __nv_bfloat16>;
  const bool tensor_cores = kNarrow && !shape.linear && has_tensor_core_kernels(rows);
  const bool by_warpgroups = tensor_cores && is_long(rows, kLongBackward);
  const auto deltas =
      static_cast<size_t>(by_warpgroups ? rows.rows * rows.heads * long_statistics(rows) * 2
                                        : shape.sequences * shape.heads * shape.queries);
  auto* scratch =
      static_cast<float*>(workspace(deltas * sizeof(float) + (by_states ? state_bytes(rows) : 0)));
  const AttentionBackward<T> x{static_cast<const T*>(qkv.data),
                               static_cast<const T*>(out.data),
                               static_cast<const float*>(stats.data),
                               static_cast<const T*>(dout.data),
                               static_cast<T*>(dqkv.data),
                               scratch};
  if (by_states) return linear_backward(rows, x, scratch + deltas, stream);
  if (shape.queries < shape.length)  // the kernels write the query gradients of those that ask
    check_cuda(cudaMemsetAsync(dqkv.data, 0, dqkv.bytes(), stream), "attention_backward");
  if constexpr (kNarrow)
    if (tensor_cores)
      return by_warpgroups ? long_backward(rows, x, stream) : window_backward(rows, x, stream);
  general_backward(rows, shape.linear, x, stream);
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& stats, cudaStream_t stream, const Workspace& workspace) {
  if (qkv.dtype == DType::f32)
    forward<float>(shape, qkv, out, stats, stream, workspace);
  else
    forward<__nv_bfloat16>(shape, qkv, out, stats, stream, workspace);
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                        const Tensor& stats, const Tensor& dout, const Tensor& dqkv,
                        cudaStream_t stream, const Workspace& workspace) {
  if (qkv.dtype == DType::f32)
    backward<float>(shape, qkv, out, stats, dout, dqkv, stream, workspace);
  else
    backward<__nv_bfloat16>(shape, qkv, out, stats, dout, dqkv, stream, workspace);
}

}  // namespace megabyte::cuda
