// The parameters of a model: flat buffers (values, gradients, moments) with named views.
//
// The flat order is: all decayed tensors (matrices and convolutions), then all others, each tensor
// aligned to kAlignment elements with zeros between; so that AdamW, clipping and checkpoints walk
// contiguous memory. One walk, for_each_parameter(), drives everything that goes by tensor.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"
#include "ops/ops.h"

namespace megabyte {

enum class ParameterKind { matrix, convolution, embedding, positions, norm_weight, bias, pad };

struct ParameterSpec {
  std::string name;  // "stages.0.blocks.1.attention.qkv.weight"
  Shape shape;
  ParameterKind kind;
  int stage;             // -1 for head.weight
  bool residual_output;  // attention.out.weight, ffn.down.weight: initialised smaller
  int64_t stage_layers;  // layers + encoder_layers of its stage
  bool decayed() const {
    return kind == ParameterKind::matrix || kind == ParameterKind::convolution;
  }
};

// Every tensor of a model, in the order of the model's own construction.
void for_each_parameter(const Config& config,
                        const std::function<void(const ParameterSpec&)>& visit);
int64_t parameter_count(const Config& config);

// A weight as layers see it. `value` is in the compute dtype for matrices, embeddings and
// positions, in the master dtype for vectors; `grad` (master dtype) exists only where the model
// trains.
struct Weight {
  Tensor value;
  Tensor grad;
};

// Initial values of some tensors from another distribution than the model's: `tensor` is whole
// parts of their names ("from_parent", "stages.1.embed").
struct InitialScale {
  std::string tensor;
  double stddev;                                     // 0 or more
  bool applies_to(const ParameterSpec& spec) const;  // never to norms and biases
};
InitialScale parse_initial_scale(const std::string& text);  // "from_parent=0.002", or UsageError

class Parameters {
 public:
  static constexpr int64_t kAlignment = 64;  // elements

  Parameters(const Config& config, Backend& backend, DType compute, bool with_gradients);

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  int64_t count() const { return count_; }  // parameters, without alignment
  DType compute() const { return compute_; }

  Weight operator[](const std::string& name) const;  // what layers bind; Error if unknown
  Tensor master(const std::string& name) const;      // the master values, master dtype

  // Flat tensors, decayed ones first.
  Tensor values() const { return values_; }  // masters
  Tensor copies() const {
    return copies_;
  }  // in the compute dtype; none if that is the master dtype
  Tensor gradients() const { return gradients_; }  // none without gradients
  // Runs of neighbouring elements that are updated alike: of one stage (the head is the finest
  // one's), and all decayed or none.
  struct Group {
    int64_t begin, count;
    bool decayed;
    int stage;
  };
  const std::vector<Group>& groups() const { return groups_; }
  // A named view into a flat tensor laid out like values() (a moment, say).
  Tensor view(const Tensor& flat, const std::string& name) const;

  // Draws initial values (defaults of docs/training.md) from `seed`, the same on every backend.
  // Where several of `scales` name a tensor, the last counts; UsageError if one names none that is
  // drawn.
  void initialize(uint64_t seed, double stddev = 0.02,
                  const std::vector<InitialScale>& scales = {});
  // Refreshes copies() after masters were written from outside.
  void refresh_copies();

 private:
  struct Place {
    int64_t offset;
    size_t spec;
  };
  Backend& backend_;
  DType compute_;
  std::vector<ParameterSpec> specs_;
  std::unordered_map<std::string, Place> places_;
  std::vector<Group> groups_;
  int64_t count_ = 0;
  Buffer buffer_;
  Tensor values_, copies_, gradients_;
};

}  // namespace megabyte
