// Draws bytes: a decoder and a sampler for a batch of independent samples that start from one
// prompt.
#pragma once

#include <cstdint>
#include <vector>

#include "generate/decoder.h"

namespace megabyte {

struct SamplingOptions {
  double temperature = 1;  // 0: always the likeliest
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  uint64_t seed = 0;
};

class Generator {
 public:
  Generator(const Hierarchy& model, int64_t batch, const SamplingOptions& options);

  // Starts `batch` samples, numbered from `first`: a sample's draws depend on the seed and on its
  // number only, whatever the batch.
  void start(const std::vector<uint16_t>& prompt, uint64_t first);
  // Draws the next symbol of each sample, (B).
  const std::vector<uint16_t>& next();

 private:
  Backend& backend_;
  SamplingOptions options_;
  Decoder decoder_;
  Buffer buffer_;
  Tensor tokens_;  // (B) u16
  std::vector<uint16_t> host_;
  uint64_t first_ = 0, position_ = 0;
};

}  // namespace megabyte
