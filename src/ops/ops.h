// The one interface between the models and the machines: memory, and the fused operations that the
// model family needs, forward and backward. A backend implements these and never a model; no type
// of CUDA, oneDNN or NCCL appears here.
//
// Conventions
//   Tensors are dense and row-major; shapes stand in comments, rows first. Every operation writes
//   its outputs completely unless it says "adds to". Optional tensors are passed as Tensor{}.
//   compute dtype   activations and matrices: f32 or bf16 (f64 on the reference backend)
//   residual dtype  the residual stream, Backend::residual_dtype(compute); its gradient has a type
//                   of its own, Backend::residual_gradient_dtype(compute)
//   master dtype    vectors (norms, biases, pads), statistics, gradients of parameters, optimizer
//                   state, logits: f32, or f64 where the compute dtype is f64
//   Tokens are u16, so that symbols beyond a byte (end of document) fit.
//   Operations may run asynchronously in the order of their calls; to_host() waits.
//   Arguments are checked with check(): a mismatch is a bug of the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/dtype.h"
#include "base/tensor.h"

namespace megabyte {

enum class Activation { none, relu, gelu };  // gelu in its tanh form

inline DType master_dtype(DType compute) { return compute == DType::f64 ? DType::f64 : DType::f32; }

// Byte embeddings, concatenated to patch vectors (section 2, eq. 1): position i of a sequence holds
// `patch` bytes of width `dim` each.
struct EmbedShape {
  int64_t sequences;
  int64_t length;  // positions of one sequence
  int64_t patch;   // bytes under one position
  int64_t dim;     // width of one byte's embedding; a position is patch * dim wide
  bool shift;      // move right by one position inside the sequence; position 0 becomes `pad`
};

// The same placement for vectors that exist already (pooled or encoded ones).
struct PlaceShape {
  int64_t sequences;
  int64_t length;
  int64_t dim;
  bool shift;
};

// Dropout on a residual branch: element i of the call is dropped when philox(seed, 2^24 draw +
// stream, i / 4) says so, so backward and recomputation draw the same mask. `draw`, (1) f64, a
// whole number (0 where there is none), is read when the operation runs: what is recorded draws
// anew.
struct Dropout {
  float rate = 0;
  uint64_t seed = 0;
  uint64_t stream = 0;  // below 2^24
  Tensor draw;
};

// Causal attention within sequences of `length` positions. Of each sequence only the last `queries`
// positions ask (Perceiver AR: fewer than `length`). With `cross` > 0 a sequence's positions also
// see the keys of the `cross` positions just before it in its batch row; a batch row is
// `row_sequences` neighbouring sequences, and nothing is seen before its start. Softmax of q.k /
// sqrt(head_dim), or, when `linear`, weights (elu(q)+1).(elu(k)+1) divided by their sum
// (Katharopoulos et al. 2020).
struct AttentionShape {
  int64_t sequences;
  int64_t length;
  int64_t queries;
  int64_t heads;
  int64_t head_dim;
  int64_t row_sequences = 1;
  int64_t cross = 0;
  bool linear = false;

  int64_t dim() const { return heads * head_dim; }
};

// One new position for each of `batch` samples, with cached keys and values. Row position p lives
// in slot p % capacity; positions first..position are visible.
struct DecodeShape {
  int64_t batch;
  int64_t heads;
  int64_t head_dim;
  int64_t capacity;
  int64_t position;
  int64_t first;
  bool linear = false;

  int64_t dim() const { return heads * head_dim; }
};

// Positions [first, last) of rows of `length`, for the same cache: at most `capacity` of them.
struct CacheShape {
  int64_t batch;
  int64_t heads;
  int64_t head_dim;
  int64_t capacity;
  int64_t length;
  int64_t first;
  int64_t last;

  int64_t dim() const { return heads * head_dim; }
};

// The feed-forward branch of a block, y = act(x . up^T + up_bias) . down^T + down_bias, or the
// gradients of its parameters: up (F, D), up_bias (F), down (D, F), down_bias (D).
struct FeedForward {
  Tensor up, up_bias, down, down_bias;
};

struct LossShape {
  int64_t rows;
  int64_t length;  // positions of one row in logits and targets
  int64_t valid;   // of which only the first `valid` count; the others get loss and gradient 0
  int64_t vocab;
  double scale;  // the gradient is that of scale * (sum of losses)
};

struct AdamwStep {
  double lr, beta1, beta2, eps;
  double decay;  // decoupled: value -= lr * decay * value
  int64_t step;  // counts from 1, for the bias corrections
  double clip;   // gradients are scaled by min(1, clip / norm); 0 = no clipping
};

struct SampleShape {
  int64_t batch;
  int64_t vocab;
  double temperature;  // 0 = greedy (the lowest index wins a tie)
  int64_t top_k;       // 0 = off
  double top_p;        // 1 = off
};

// A Transformer block in decoding (layers/block.h): its weights, matrices in compute and vectors in
// master dtype, and the keys and values of its attention (see attention_decode).
struct DecodeBlock {
  Tensor norm1_weight, norm1_bias, qkv_weight, qkv_bias, out_weight, out_bias;
  Tensor norm2_weight, norm2_bias, up_weight, up_bias, down_weight, down_bias;
  Tensor keys, values;
};

// Blocks one after another, and the norm of what they hand on.
struct DecodeStack {
  std::span<const DecodeBlock> blocks;
  Activation activation;
  double eps;
  Tensor norm_weight, norm_bias;
};

// Owned memory of a backend.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::byte* data, size_t bytes, std::function<void(std::byte*)> release)
      : data_(data, std::move(release)), bytes_(bytes) {}

  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<std::byte, std::function<void(std::byte*)>> data_;
  size_t bytes_ = 0;
};

// A sequence of operations that runs as a whole, again and again, on the same memory.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;         // "cpu"
  virtual std::string description() const = 0;  // the machine and libraries behind it, for people
  virtual bool supports(DType compute) const = 0;
  virtual bool fast(DType compute) const = 0;  // does the hardware multiply this type?
  virtual DType residual_dtype(DType compute) const = 0;
  virtual DType residual_gradient_dtype(DType compute) const = 0;
  // Do operations return before they are done? Then it pays to call many of them between two
  // to_host().
  virtual bool asynchronous() const { return false; }
  // Notes the operations that `work` calls, without running them; nullptr, and `work` is not
  // called, on backends that gain nothing from it. The same operations must have run before (they
  // may allocate when they first run), and `work` must neither read nor write the host's memory.
  // `rows`: all operations are of so many rows, or of a multiple of them in equal shares, and no
  // share of any tensor depends on another's: one may go through all operations before the next
  // goes through the first. Where nothing is known, 1.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& work, int64_t rows) {
    static_cast<void>(work);
    static_cast<void>(rows);
    return nullptr;
  }
  // Runs such operations, now.
  virtual void run_rows(const std::function<void()>& work, int64_t rows) {
    static_cast<void>(rows);
    work();
  }

  // --- memory

  // The most bytes held at once so far: by the whole process where tensors lie in the host's
  // memory, else on the device (beside what its driver holds for a process).
  virtual size_t peak_memory() const = 0;
  // Bytes that operations take beside what is allocated here, about.
  virtual size_t workspace() const = 0;
  // Uninitialised memory, aligned to Arena::kAlignment. Error that says how much was asked for.
  virtual Buffer allocate(size_t bytes) = 0;
  virtual void from_host(const Tensor& dst, const void* src) = 0;  // bytes of dst
  virtual void to_host(void* dst, const Tensor& src) = 0;          // waits for pending work
  // to_host() in two halves: the copy is taken in the order of operations, and `dst` holds it once
  // the returned function has been called, which waits for nothing that was called later.
  virtual std::function<void()> fetch(void* dst, const Tensor& src) {
    to_host(dst, src);
    return [] {};
  }
  virtual void synchronize() = 0;
  virtual void zero(const Tensor& x) = 0;
  // Same size, any two of the compute, residual and master dtypes.
  virtual void convert(const Tensor& src, const Tensor& dst) = 0;
  // dst[r, c] = src[r, c] for r < rows, c < cols, with row strides in elements; same dtype.
  virtual void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst,
                         int64_t dst_stride, int64_t rows, int64_t cols) = 0;

  // --- input side

  // tokens (sequences * length * patch) u16, table (V, dim), positions (>= length * patch, dim) or
  // none, pad (patch * dim) when shifted, out (sequences * length, patch * dim) residual dtype.
  virtual void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                             const Tensor& positions, const Tensor& pad, const Tensor& out) = 0;
  // dout: residual gradient dtype. Adds to dtable, dpositions, dpad (master dtype).
  virtual void embed_backward(const EmbedShape& shape, const Tensor& tokens, const Tensor& dout,
                              const Tensor& dtable, const Tensor& dpositions,
                              const Tensor& dpad) = 0;
  // in (sequences * length, dim), positions (>= length * dim elements) or none, pad (dim) when
  // shifted, out (sequences * length, dim); `in` and `out` may have different float dtypes.
  virtual void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                             const Tensor& pad, const Tensor& out) = 0;
  // dout is in residual gradient dtype. Writes din, in that or the compute dtype (the last position
  // of a shifted sequence gets 0), adds to dpositions, dpad.
  virtual void place_backward(const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                              const Tensor& dpositions, const Tensor& dpad) = 0;
  // Causal windows for a convolution as a product: in (rows * length, channels) residual dtype,
  // out (rows * length, channels * width) compute dtype, out[t, c * width + k] = in[t - (width-1) +
  // k, c], 0 before the row's start.
  virtual void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) = 0;
  virtual void unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                               const Tensor& din) = 0;  // adds to din, residual gradient dtype
  virtual void add(const Tensor& a, const Tensor& b,
                   const Tensor& out) = 0;  // may alias; any dtypes

  // --- products

  // y (M, N) = act(pre), pre (M, N) = x (M, K) . w (N, K)^T + bias (N). `pre` is kept for backward
  // when given (needed for gelu only). y is in compute, residual or master dtype; the rest in
  // compute dtype.
  virtual void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias,
                              Activation activation, const Tensor& pre, const Tensor& y) = 0;
  // dx (M, K) = (dy (M, N) . w (N, K)) * act'. For gelu `saved` is the pre-activation, for relu the
  // activation itself (M, K); for none it is not given.
  virtual void linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                                     const Tensor& saved, const Tensor& dx) = 0;
  // dx = dy * act'(saved), `saved` as in linear_backward_input; all of one shape, compute dtype.
  // May alias.
  virtual void activation_backward(const Tensor& dy, Activation activation, const Tensor& saved,
                                   const Tensor& dx) = 0;
  // Adds dy^T . x to dw (N, K) and, when given, the column sums of dy to dbias (N); master dtype.
  virtual void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                      const Tensor& dbias) = 0;

  // Both gradients of y = x . w^T + bias: linear_backward_weight, then linear_backward_input
  // without an activation, as one operation. dx may be x.
  virtual void linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& dw,
                               const Tensor& dbias, const Tensor& dx);
  // x, y (M, D). What backward needs is left in `pre` (M, F; given for gelu when something runs
  // backward) and `hidden` (M, F), compute dtype: whether as pre-activation and activation or in
  // another form is the backend's choice. Without y nothing else is computed.
  virtual void feed_forward(const FeedForward& w, Activation activation, const Tensor& x,
                            const Tensor& pre, const Tensor& hidden, const Tensor& y);
  // Writes dx (M, D), adds to the gradients in dw; dhidden (M, F) is scratch.
  virtual void feed_forward_backward(const FeedForward& w, Activation activation, const Tensor& dy,
                                     const Tensor& x, const Tensor& pre, const Tensor& hidden,
                                     const Tensor& dhidden, const FeedForward& dw,
                                     const Tensor& dx);
  // From here on, linear_forward to the compute dtype, linear_backward and feed_forward may take
  // their products in 8 bits where that is faster (e4m3, gradients in e5m2; Micikevicius et al.
  // 2022, arXiv:2209.05433), for a compute dtype of bf16. Each gradient must then come from a
  // forward pass under the same setting. Error that says what is missing when `on` cannot be had.
  virtual void use_fp8(bool on);

  // --- blocks

  // sum (M, D) = x + dropout(delta); xhat (M, D) = (sum - mean) * rstd, each row with its mean and
  // rstd (M); y (M, D) = xhat * weight + bias. x and sum are in residual, delta, xhat and y in
  // compute dtype. Without delta, sum is not written and may be Tensor{}. sum may be x; xhat and
  // rstd may be Tensor{} when nothing will run backward.
  virtual void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                                     const Tensor& weight, const Tensor& bias, double eps,
                                     const Tensor& sum, const Tensor& y, const Tensor& xhat,
                                     const Tensor& rstd) = 0;
  // y (M, N) = act(norm(sum) . w (N, D)^T + bias (N)), sum (M, D) = x + delta:
  // residual_norm_forward and linear_forward in one, for decoding, where a kernel's start costs as
  // much as its work. `norm` (M, D) is scratch memory; y and it are in compute dtype. Without
  // delta, sum is not written and may be Tensor{}; otherwise it must not be x.
  virtual void norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                           const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                           Activation activation, const Tensor& sum, const Tensor& norm,
                           const Tensor& y);
  // dsum (M, D, residual gradient dtype) = (accumulate ? dsum : 0) + norm's gradient; ddelta
  // (compute dtype), when given, = dropout'(dsum). Adds to dweight, dbias (D).
  virtual void residual_norm_backward(const Tensor& dy, const Tensor& xhat, const Tensor& rstd,
                                      const Tensor& weight, const Dropout& dropout, bool accumulate,
                                      const Tensor& dsum, const Tensor& ddelta,
                                      const Tensor& dweight, const Tensor& dbias) = 0;
  // Rotary positions in place on the q and k thirds of qkv (M, 3 * heads * head_dim): row r has
  // position first + r % length; pairs are (i, i + head_dim / 2), frequencies 10000^(-2i /
  // head_dim), angles computed in double. `inverse` turns back (the gradient).
  virtual void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
                      int64_t first, bool inverse) = 0;
  // qkv (sequences * length, 3 * dim), out (sequences * queries, dim), stats (sequences * heads *
  // queries) master dtype: the log-sum-exp of the scores, or the sum of the linear weights;
  // Tensor{} when nothing will run backward.
  virtual void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                                 const Tensor& stats) = 0;
  virtual void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                                  const Tensor& stats, const Tensor& dout, const Tensor& dqkv) = 0;

  // --- loss, optimizer

  // logits (rows * length, vocab) master dtype, targets (rows * length) u16. Writes losses (rows *
  // length, nats, master dtype) and dlogits (compute dtype) when given; adds the sum of losses to
  // total (1, f64).
  virtual void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                             const Tensor& losses, const Tensor& dlogits, const Tensor& total) = 0;
  virtual void sum_of_squares(const Tensor& x, const Tensor& total) = 0;  // adds to total (1, f64)
  // One AdamW step on flat tensors; `copy`, when given, receives the new values in the compute
  // dtype. Does nothing when norm_sq (1, f64: the squared norm of all gradients) is not finite.
  virtual void adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy,
                     const Tensor& grad, const Tensor& m, const Tensor& v,
                     const Tensor& norm_sq) = 0;

  // --- decoding

  // qkv (batch, 3 * dim); keys, values (batch, heads, capacity, head_dim) compute dtype. Stores the
  // new key and value, then attends; out (batch, dim).
  virtual void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                                const Tensor& values, const Tensor& out) = 0;
  // Stores the keys and values of positions that ran together, qkv (batch * length, 3 * dim), where
  // attention_decode() finds them.
  virtual void cache_keys(const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                          const Tensor& values);
  // Linear attention as a running state: state (batch, heads, head_dim + 1, head_dim), master
  // dtype, whose last row is the sum of feature-mapped keys and row i < head_dim holds sum_t
  // phi(k_t)[i] * v_t. Adds the new position, then asks. Uses batch, heads, head_dim only.
  virtual void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv,
                                       const Tensor& state, const Tensor& out) = 0;
  // A whole stack at a new position as one piece of work: x (batch, dim) residual and delta (batch,
  // dim) compute dtype (or none) go into the first block as x + delta; `sum` (batch, dim; may be x)
  // is what the last one hands on, y (batch, dim) its norm. The same numbers as the operations
  // above, but for the order of sums and for what is rounded to compute dtype on its way: a
  // branch or, in its place, the sum that the next norm reads. False, and nothing is done, where
  // the backend has no such thing for these shapes.
  virtual bool decode_stack(const DecodeShape& shape, const DecodeStack& stack, const Tensor& x,
                            const Tensor& delta, const Tensor& sum, const Tensor& y) {
    static_cast<void>(shape), static_cast<void>(stack), static_cast<void>(x);
    static_cast<void>(delta), static_cast<void>(sum), static_cast<void>(y);
    return false;
  }
  // logits (batch, vocab) and draws (batch), uniform in (0, 1), master dtype; no draws are needed
  // where the temperature is 0; tokens (batch) u16.
  virtual void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
                      const Tensor& tokens) = 0;
};

// Backends of this build: "reference" and "exact", and, where they were built, "cpu", "cuda" and
// "exact-cuda"; "auto" is the fastest that this machine runs. threads = 0 takes all cores. Error
// that says what is missing.
std::unique_ptr<Backend> make_backend(const std::string& device, int threads = 0);

}  // namespace megabyte
