#include "codec/stream_coder.h"

#include <algorithm>

#include "backends/exact/frequencies.h"
#include "base/error.h"
#include "codec/checksums.h"
#include "data/byte_dataset.h"
#include "ops/range_coder.h"
#include "ops/symbols.h"

namespace megabyte {
namespace {

const Hierarchy& with_all_bytes(const Hierarchy& model) {
  if (model.config().vocab_size < static_cast<int64_t>(kByteValues))
    fail("the model knows {} symbols: a model that compresses knows all 256 bytes",
         model.config().vocab_size);
  return model;
}

}  // namespace

StreamCoder::StreamCoder(const Hierarchy& model, int64_t batch)
    : decoder_(with_all_bytes(model), batch),
      model_(model),
      logits_(static_cast<size_t>(batch * model.config().vocab_size)),
      frequencies_(static_cast<size_t>(batch) * kByteValues),
      tokens_(static_cast<size_t>(batch)) {}

void StreamCoder::start(size_t streams) {
  check(streams <= tokens_.size(), "no more streams than the batch has rows");
  std::fill(tokens_.begin(), tokens_.end(), kEndOfDocument);
  decoder_.prompt(tokens_.data(), ends_documents(model_.config().vocab_size) ? 1 : 0);
  std::fill(tokens_.begin(), tokens_.end(), 0);
}

const uint32_t* StreamCoder::step() {
  const Tensor& logits = decoder_.advance();
  model_.backend().to_host(logits_.data(), logits);
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  if (vocab == kByteValues) {
    exact::frequencies(logits_.data(), batch(), kByteValues, frequencies_.data());
  } else {
    for (size_t b = 0; b < tokens_.size(); ++b)
      exact::frequencies(&logits_[b * vocab], 1, kByteValues, &frequencies_[b * kByteValues]);
  }
  return frequencies_.data();
}

// each(stream, place, frequencies) codes a byte and gives it back.
template <class Each>
void StreamCoder::run(std::span<const size_t> lengths, const Progress& progress, const Each& each) {
  start(lengths.size());
  const size_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  for (size_t t = 0; t < longest; ++t) {
    const uint32_t* frequencies = step();
    uint64_t coded = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      if (t >= lengths[b]) continue;
      tokens_[b] = each(b, t, frequencies + b * kByteValues);
      ++coded;
    }
    decoder_.accept(tokens_.data());
    if (progress) progress(coded);
  }
}

std::vector<std::vector<uint8_t>> StreamCoder::encode(std::span<const Bytes> streams,
                                                      const Progress& progress) {
  std::vector<RangeEncoder> encoders(streams.size());
  std::vector<size_t> lengths;
  for (const Bytes stream : streams) lengths.push_back(stream.size());
  run(lengths, progress, [&](size_t b, size_t t, const uint32_t* f) {
    const uint8_t byte = streams[b][t];
    encoders[b].encode(sum(f, byte), f[byte], sum(f, kByteValues));
    return byte;
  });
  std::vector<std::vector<uint8_t>> coded;
  for (RangeEncoder& encoder : encoders) coded.push_back(encoder.finish());
  return coded;
}

void StreamCoder::decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
                         const Progress& progress) {
  check(coded.size() == to.size(), "as many streams as places for them");
  std::vector<RangeDecoder> decoders(coded.begin(), coded.end());
  std::vector<size_t> lengths;
  for (const std::span<uint8_t> stream : to) lengths.push_back(stream.size());
  run(lengths, progress, [&](size_t b, size_t t, const uint32_t* f) {
    const Share found = share_of(f, decoders[b].target(sum(f, kByteValues)));
    decoders[b].take(found.below, f[found.symbol]);
    return to[b][t] = found.symbol;
  });
}

std::array<uint8_t, 8> self_test(const Hierarchy& model) {
  constexpr int64_t kRows = 2, kSteps = 48;
  const Config& config = model.config();
  const int64_t prompt = std::min(2 * config.patch_bytes(0), config.context() / 2);
  const auto vocab = static_cast<size_t>(config.vocab_size);
  Decoder decoder(with_all_bytes(model), kRows);
  uint32_t state = 1;
  const auto next = [&] {
    state = state * 1664525 + 1013904223;
    return static_cast<uint16_t>(state >> 24);
  };
  std::vector<uint16_t> tokens(static_cast<size_t>(kRows * std::max<int64_t>(prompt, 1)));
  std::generate(tokens.begin(), tokens.end(), next);
  decoder.prompt(tokens.data(), prompt);

  Sha256 hash;
  std::vector<float> logits(kRows * vocab);
  std::array<uint32_t, kByteValues> frequencies;
  std::array<uint8_t, 4 * kByteValues> bytes;
  for (int64_t t = 0; t < kSteps; ++t) {
    model.backend().to_host(logits.data(), decoder.advance());
    for (size_t b = 0; b < kRows; ++b) {
      exact::frequencies(&logits[b * vocab], 1, kByteValues, frequencies.data());
      for (size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<uint8_t>(frequencies[i / 4] >> 8 * (i % 4));
      hash.update(bytes);
      tokens[b] = next();
    }
    decoder.accept(tokens.data());
  }
  std::array<uint8_t, 8> first;
  std::copy_n(hash.finish().begin(), first.size(), first.begin());
  return first;
}

}  // namespace megabyte
