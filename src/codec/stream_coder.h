// Codes streams of bytes with a model: each byte by the frequencies that the model gives it after
// the bytes before it. A batch of streams goes in step, and none knows of the others: which are
// coded together, and on how many threads, changes nothing.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "generate/decoder.h"
#include "model/hierarchy.h"

namespace megabyte {

using Bytes = std::span<const uint8_t>;

// Bytes of a stream that a full context keeps: an eighth, in whole patches of the coarsest stage.
// To keep more costs more, as what is kept goes through the model once more.
int64_t kept_in_stream(const Config& config);

class StreamCoder {
 public:
  // Called now and then with the bytes coded since the last time, in all streams; may throw to
  // stop.
  using Progress = std::function<void(uint64_t bytes)>;

  // The model is on the exact backend. Error if its vocabulary lacks byte values. Symbols beyond
  // bytes are not coded; where there is an end of document a stream begins after one.
  StreamCoder(const Hierarchy& model, int64_t batch);

  int64_t batch() const { return batch_; }
  // At most batch() streams. They are known, so that all bytes of a context go through the model at
  // once: the same numbers as one by one.
  std::vector<std::vector<uint8_t>> encode(std::span<const Bytes> streams,
                                           const Progress& progress = {});
  // Fills each of `to`. Bytes that encode() did not make become bytes of some kind.
  void decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
              const Progress& progress = {});

 private:
  // (rows, 256) frequencies from logits (rows, V).
  const uint32_t* frequencies_of(const Tensor& logits);
  std::vector<uint8_t> encode(Bytes stream, const Progress& progress);
  template <class Each>
  void step_through(std::span<const size_t> lengths, const Progress& progress, const Each& each);

  const Hierarchy& model_;
  int64_t batch_;
  std::optional<Decoder> decoder_;      // made when first needed
  std::unique_ptr<Hierarchy> encoder_;  // too: the same model, for encode()
  std::vector<float> logits_;
  std::vector<uint32_t> frequencies_;
};

// Eight bytes that depend on every kind of arithmetic that the model uses, in decoding steps and
// in parallel: a machine that computes others does not read its archives.
std::array<uint8_t, 8> self_test(const Hierarchy& model);

}  // namespace megabyte
