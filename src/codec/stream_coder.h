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
#include "ops/byte_coding.h"
#include "ops/range_coder.h"

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
  // As many as the backend gains speed from, and has the memory for.
  static int64_t batch_that_pays(const Hierarchy& model);

  int64_t batch() const { return batch_; }
  // At most batch() streams. They are known, so that all bytes of a context go through the model at
  // once: the same numbers as one by one.
  std::vector<std::vector<uint8_t>> encode(std::span<const Bytes> streams,
                                           const Progress& progress = {});
  // Fills each of `to`. Bytes that encode() did not make become bytes of some kind.
  void decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
              const Progress& progress = {});

 private:
  std::function<void()> fetch_shares(const Tensor& logits, const std::vector<uint16_t>& bytes,
                                     std::vector<ByteShare>& to);
  void encode_windows(std::span<const Bytes> streams, std::span<RangeEncoder> encoders,
                      const Progress& progress);
  void encode_steps(std::span<const Bytes> streams, std::span<RangeEncoder> encoders,
                    const Progress& progress);
  Decoder& start();
  void load(std::span<const Bytes> coded);

  const Hierarchy& model_;
  ByteCoding& coding_;  // the model's backend
  int64_t batch_;
  int64_t window_rows_;                 // streams of which a window is encoded at once
  std::optional<Decoder> decoder_;      // made when first needed
  std::unique_ptr<Hierarchy> encoder_;  // too: the same model, for encode()
  Buffer shares_;                       // ByteShares of rows, then their bytes
  Buffer coded_, decoders_buffer_;
  Tensor decoders_;  // (batch, sizeof(RangeDecoder)) u8, for decode()
};

// Eight bytes that depend on every kind of arithmetic that the model uses, in decoding steps and
// in parallel: a machine that computes others does not read its archives.
std::array<uint8_t, 8> self_test(const Hierarchy& model);

}  // namespace megabyte
