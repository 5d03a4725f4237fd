// A model: a hierarchy of causal stages over bytes (docs/model.md), forward and backward. This one
// class is the byte Transformer, Perceiver AR, MEGABYTE, its N-level form and the hourglass, on
// every backend.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "layers/stage.h"
#include "model/config.h"
#include "model/parameters.h"
#include "ops/ops.h"

namespace megabyte {

// Dropout of each stage's residual branches.
struct StageDropout {
  // Coarsest stage first; one is of all stages, and stages beyond the end of more have none.
  std::vector<double> rates;
  uint64_t seed = 0;
};

class Hierarchy {
 public:
  Hierarchy(const Config& config, Backend& backend, DType compute, bool trainable);
  ~Hierarchy();
  // Another one with the same parameters and memory of its own: for a forward on another thread.
  std::unique_ptr<Hierarchy> share() const;

  const Config& config() const { return config_; }
  Backend& backend() const { return backend_; }
  DType compute() const { return parameters_->compute(); }
  Parameters& parameters() { return *parameters_; }
  const Parameters& parameters() const { return *parameters_; }
  const std::vector<StageWeights>& stages() const { return weights_; }
  const Weight& head() const { return head_; }  // (V, D): the tied table or head.weight

  // Positions of a row of `length` bytes that logits predict: all, or the last `latents` (Perceiver
  // AR).
  int64_t predicted(int64_t length) const;
  // Bytes that activations, gradients of activations and batch take under a plan (parameters not
  // counted).
  static size_t activation_bytes(const Config& config, Backend& backend, DType compute,
                                 const BatchPlan& plan);

  // Plans memory if `plan` differs from the last one. Error if length is not in [1, context].
  void prepare(const BatchPlan& plan);

  // The batch of the next forward(): tokens of the host, (B, L) as planned.
  void load(const uint16_t* tokens);
  // Dropout's masks of the next forward() and backward() follow from its seed and this number.
  void draw(uint64_t number);
  void forward(const StageDropout& dropout = {});

  // (B, rows_length, V) master dtype; of each row only the first predicted(L) positions count: the
  // batch is padded to whole patches.
  Tensor logits() const;
  void copy_logits(std::vector<double>& out) const;  // host, (B, predicted(L), V)

  // After forward: losses of all predicted positions; when training also the gradient of scale *
  // (their sum), which backward() then adds to the parameters' gradients. Adds the sum to total()
  // (nats).
  void loss(double scale);
  void backward();

  Tensor total() const { return total_; }  // (1) f64 on the backend; zero it with the backend
  void copy_losses(std::vector<double>& out) const;  // host, (B, predicted(L)) nats

 private:
  struct Activations;
  Hierarchy(const Config& config, Backend& backend, std::shared_ptr<Parameters> parameters);
  StageRun run(size_t stage) const;

  Config config_;
  Backend& backend_;
  std::shared_ptr<Parameters> parameters_;
  std::vector<StageWeights> weights_;
  Weight head_;
  Buffer numbers_buffer_;
  Tensor total_, draw_;
  BatchPlan plan_;
  StageDropout dropout_;  // of the last forward(), for its backward()
  Buffer buffer_;
  std::unique_ptr<Activations> activations_;
};

}  // namespace megabyte
