// Attention on the device. Shapes and meaning of the tensors are those of Backend's operations in
// ops/ops.h; every tensor of one call has the same compute dtype, f32 or bf16, and statistics and
// states are f32. All work is queued on `stream`; nothing waits for the device or allocates once
// the workspace has grown to its size, so that a step may be captured in a graph.
#pragma once

#include <cuda_runtime.h>

#include <functional>

#include "backends/cuda/context.h"
#include "base/tensor.h"
#include "ops/ops.h"

namespace megabyte::cuda {

// Scratch memory of at least `bytes`, aligned to Arena::kAlignment, valid until the next call of
// the same callback (one call for each operation: ask for everything at once).
using Workspace = std::function<void*(size_t bytes)>;

// Softmax attention, or linear attention where shape.linear. `stats` may be Tensor{} when nothing
// will run backward.
void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& stats, cudaStream_t stream, const Workspace& workspace);
// Writes all of dqkv; positions that ask nothing get a query gradient of 0.
void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                        const Tensor& stats, const Tensor& dout, const Tensor& dqkv,
                        cudaStream_t stream, const Workspace& workspace);

// One new position with cached keys and values (softmax or shape.linear), and with a running state.
// The first overlaps with its neighbours on the stream (overlap.cuh).
void attention_decode(Context& context, const DecodeShape& shape, const Tensor& qkv,
                      const Tensor& keys, const Tensor& values, const Tensor& out);
void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                             const Tensor& out, cudaStream_t stream, const Workspace& workspace);

}  // namespace megabyte::cuda
