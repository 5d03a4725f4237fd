// What a model costs, counted and not measured: parameters, floating-point operations, memory, and
// the steps that cannot run side by side.
//
// Operations are counted twice. "By the paper" is the estimate of MEGABYTE's section 3.1
// (arXiv:2305.07185): 2 m / P FLOPs a byte for a stage of m parameters outside its tables and P
// bytes under a position, and causal attention over n positions at 2 n D a layer and position
// (Kaplan et al. 2020), or 9 D where attention is linear. "Exactly" adds up every product and every
// visible pair of query and key as the engine runs them (linear attention: a running state, where
// that is less): ragged lengths padded to whole patches, encoder blocks, cross-patch windows,
// convolutions, the head. Element-wise work is in neither.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/stage.h"
#include "model/config.h"

namespace megabyte {

struct StageCost {
  int64_t positions = 0;          // in one row
  int64_t parameters = 0;         // all of the stage's tensors
  int64_t matrix_parameters = 0;  // those that multiply: the paper's m
  double products = 0;            // FLOPs of the forward products, a predicted byte
  double attention = 0;           // FLOPs of the forward attention, a predicted byte
  double paper = 0;               // forward FLOPs a predicted byte by the paper's count
  int64_t steps = 0;              // one after another in generating one patch of stage 0
  int64_t layers = 0;             // of one such step, encoder blocks included
};

struct Cost {
  int64_t length = 0;     // bytes of a row
  int64_t predicted = 0;  // of which are predicted: all, or the latents of Perceiver AR
  int64_t patch = 0;      // bytes under one position of stage 0
  int64_t parameters = 0;
  int64_t head_parameters = 0;  // of an untied head; a tied one counts in its stage
  double head = 0;              // forward FLOPs of the head's product, a predicted byte
  std::vector<StageCost> stages;

  double forward() const;  // FLOPs a predicted byte, exactly
  // Forward and backward: every product runs once forward and twice backward (to its input, to its
  // weight); attention backward is five products of the size of forward's two. `checkpoint` adds
  // the blocks' second forward, all but their last product.
  double training(bool checkpoint) const;
  // The same, a byte that is read, predicted or not.
  double training_of_read(bool checkpoint) const {
    return training(checkpoint) * static_cast<double>(predicted) / static_cast<double>(length);
  }
  double paper_forward() const;
  double paper_training() const { return 3 * paper_forward(); }
  int64_t serial_layers() const;  // blocks one after another in generating one patch of stage 0

  double recomputed = 0;  // the part of forward() that checkpointing runs again
};

// Of rows of `length` bytes; Error if the length is not in [1, context].
Cost count_cost(const Config& config, int64_t length);

// Bytes that training takes beside activations (Hierarchy::activation_bytes).
struct TrainingMemory {
  int64_t weights;  // masters, and copies in the compute type where it is another
  int64_t gradients;
  int64_t moments;  // AdamW's two
};
TrainingMemory training_memory(const Config& config, DType compute);

// Bytes that generation takes: weights, and the caches of `batch` samples.
struct GenerationMemory {
  int64_t weights;
  int64_t caches;
};
GenerationMemory generation_memory(const Config& config, DType compute, int64_t batch);

// Figure 3 of the paper: FLOPs a byte by the paper's count over the length of the sequence, for
// models of three sizes. The paper gives parameters only; widths and depths are chosen here to meet
// them (docs/model.md).
struct SweepModel {
  std::string name;                    // "MEGABYTE 5.8B/604M"
  std::string kind;                    // "Transformer", "linear Transformer", "MEGABYTE"
  int64_t parameters = 0;              // outside tables
  std::vector<double> flops_per_byte;  // of each length
};
struct Sweep {
  std::vector<int64_t> lengths;
  std::vector<SweepModel> models;
};
Sweep sweep_lengths();

}  // namespace megabyte
