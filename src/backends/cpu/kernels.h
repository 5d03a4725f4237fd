// The cpu backend's kernels: operations of ops/ops.h under the same names (shapes and meaning stand
// there), with the threads to run on in front. Each is compiled for several instruction sets and
// chosen at run time.
#pragma once

#include "backends/cpu/parallel.h"
#include "ops/ops.h"

namespace megabyte::cpu {

// elementwise.cpp
void convert(Threads& threads, const Tensor& src, const Tensor& dst);
void add(Threads& threads, const Tensor& a, const Tensor& b, const Tensor& out);
void activation_forward(Threads& threads, Activation activation, const Tensor& pre,
                        const Tensor& y);
void activation_backward(Threads& threads, const Tensor& dy, Activation activation,
                         const Tensor& saved, const Tensor& dx);
void add_column_sums(Threads& threads, const Tensor& x, const Tensor& sums);  // (M, N) to (N)

// input.cpp
void embed_forward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                   const Tensor& table, const Tensor& positions, const Tensor& pad,
                   const Tensor& out);
void embed_backward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                    const Tensor& dout, const Tensor& dtable, const Tensor& dpositions,
                    const Tensor& dpad);
void place_forward(Threads& threads, const PlaceShape& shape, const Tensor& in,
                   const Tensor& positions, const Tensor& pad, const Tensor& out);
void place_backward(Threads& threads, const PlaceShape& shape, const Tensor& dout,
                    const Tensor& din, const Tensor& dpositions, const Tensor& dpad);
void unfold(Threads& threads, const Tensor& in, int64_t length, int64_t width, const Tensor& out);
void unfold_backward(Threads& threads, const Tensor& dout, int64_t length, int64_t width,
                     const Tensor& din);

// norm.cpp
void residual_norm_forward(Threads& threads, const Tensor& x, const Tensor& delta,
                           const Dropout& dropout, const Tensor& weight, const Tensor& bias,
                           double eps, const Tensor& sum, const Tensor& y, const Tensor& xhat,
                           const Tensor& rstd);
void residual_norm_backward(Threads& threads, const Tensor& dy, const Tensor& xhat,
                            const Tensor& rstd, const Tensor& weight, const Dropout& dropout,
                            bool accumulate, const Tensor& dsum, const Tensor& ddelta,
                            const Tensor& dweight, const Tensor& dbias);

// rotary.cpp: cosines and sines (positions, head_dim / 2) of the positions asked for.
void rotate(Threads& threads, const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
            const float* cosines, const float* sines, bool inverse);

// attention_forward.cpp, attention_backward.cpp: any attention with its scores in blocks
void attention_forward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                       const Tensor& out, const Tensor& stats);
void attention_backward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                        const Tensor& out, const Tensor& stats, const Tensor& dout,
                        const Tensor& dqkv);

// linear_attention.cpp: linear attention without a cross window, as a running state
void linear_attention_forward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                              const Tensor& out, const Tensor& stats);
void linear_attention_backward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                               const Tensor& out, const Tensor& stats, const Tensor& dout,
                               const Tensor& dqkv);
void linear_attention_decode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                             const Tensor& state, const Tensor& out);

// decode.cpp
void attention_decode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                      const Tensor& keys, const Tensor& values, const Tensor& out);
// y = act(x . w^T + bias) for the few rows of x of a decoding step
inline constexpr int64_t kFewRows = 16;
void few_row_linear(Threads& threads, const Tensor& x, const Tensor& w, const Tensor& bias,
                    Activation activation, const Tensor& pre, const Tensor& y);

// loss.cpp, optimizer.cpp
void cross_entropy(Threads& threads, const LossShape& shape, const Tensor& logits,
                   const Tensor& targets, const Tensor& losses, const Tensor& dlogits,
                   const Tensor& total);
void sum_of_squares(Threads& threads, const Tensor& x, const Tensor& total);
void adamw(Threads& threads, const AdamwStep& step, const Tensor& value, const Tensor& copy,
           const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& norm_sq);

}  // namespace megabyte::cpu
