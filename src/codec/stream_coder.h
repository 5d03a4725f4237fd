// Codes streams of bytes with a model: each byte by the frequencies that the model gives it after
// the bytes before it. A batch of streams goes in step, and none knows of the others: which are
// coded together, and on how many threads, changes nothing.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generate/decoder.h"

namespace megabyte {

using Bytes = std::span<const uint8_t>;

class StreamCoder {
 public:
  // Called after each step with the bytes that it coded, in all streams; may throw to stop.
  using Progress = std::function<void(uint64_t bytes)>;

  // The model is on the exact backend. Error if its vocabulary lacks byte values. Symbols beyond
  // bytes are not coded; where there is an end of document a stream begins after one.
  StreamCoder(const Hierarchy& model, int64_t batch);

  int64_t batch() const { return decoder_.batch(); }
  // At most batch() streams.
  std::vector<std::vector<uint8_t>> encode(std::span<const Bytes> streams,
                                           const Progress& progress = {});
  // Fills each of `to`. Bytes that encode() did not make become bytes of some kind.
  void decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
              const Progress& progress = {});

 private:
  void start(size_t streams);
  const uint32_t* step();  // (B, 256) frequencies of the next bytes
  template <class Each>
  void run(std::span<const size_t> lengths, const Progress& progress, const Each& each);

  Decoder decoder_;
  const Hierarchy& model_;
  std::vector<float> logits_;
  std::vector<uint32_t> frequencies_;
  std::vector<uint16_t> tokens_;
};

// Eight bytes that depend on every kind of arithmetic that the model uses, in decoding steps and
// in parallel: a machine that computes others does not read its archives.
std::array<uint8_t, 8> self_test(const Hierarchy& model);

}  // namespace megabyte
