// Draws bytes: a decoder and a sampler for a batch of independent samples that start from one
// prompt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/decoder.h"

namespace megabyte {

struct SamplingOptions {
  double temperature = 1;  // 0: always the likeliest
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  uint64_t seed = 0;
};

// The symbols of a prompt. Where the model knows the ends of documents a prompt begins a new one,
// after the end of another. Error for a byte outside the vocabulary.
std::vector<uint16_t> prompt_symbols(std::span<const uint8_t> prompt, const Config& config);

class Generator {
 public:
  Generator(const Hierarchy& model, int64_t batch, const SamplingOptions& options);

  // Starts `batch` samples, numbered from `first`: a sample's draws depend on the seed, on its
  // number and on the byte's place only, whatever the batch.
  void start(const std::vector<uint16_t>& prompt, uint64_t first);
  // The next symbol of each sample, (B). On an asynchronous backend a whole run is drawn ahead.
  const std::vector<uint16_t>& next();

 private:
  void draw();

  Backend& backend_;
  SamplingOptions options_;
  Decoder decoder_;
  Buffer buffer_;
  Tensor draws_;                 // (run, B) master dtype: uniform numbers
  std::vector<uint16_t> drawn_;  // (n, B), of which `given_` elements are handed out
  size_t given_ = 0;
  std::vector<uint16_t> next_;
  uint64_t first_ = 0, position_ = 0;  // of the samples; of the next byte to be drawn
};

}  // namespace megabyte
