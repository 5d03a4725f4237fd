#include "codec/stream_coder.h"

#include <algorithm>

#include "backends/exact/frequencies.h"
#include "base/error.h"
#include "codec/checksums.h"
#include "data/byte_dataset.h"
#include "eval/windows.h"
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

int64_t kept_in_stream(const Config& config) {
  const int64_t patches = config.stages.front().length;
  return patches == 1 ? 0 : std::max<int64_t>(1, patches / 8) * config.patch_bytes(0);
}

StreamCoder::StreamCoder(const Hierarchy& model, int64_t batch)
    : model_(with_all_bytes(model)), batch_(batch) {
  check(batch > 0, "a batch has rows");
}

const uint32_t* StreamCoder::frequencies_of(const Tensor& logits) {
  const int64_t vocab = model_.config().vocab_size, rows = logits.size() / vocab;
  logits_.resize(static_cast<size_t>(rows * vocab));
  frequencies_.resize(static_cast<size_t>(rows) * kByteValues);
  model_.backend().to_host(logits_.data(), logits);
  for (int64_t r = 0; r < rows; ++r)
    exact::frequencies(&logits_[static_cast<size_t>(r * vocab)], 1, kByteValues,
                       &frequencies_[static_cast<size_t>(r) * kByteValues]);
  return frequencies_.data();
}

// each(stream, place, frequencies) codes a byte and gives it back.
template <class Each>
void StreamCoder::step_through(std::span<const size_t> lengths, const Progress& progress,
                               const Each& each) {
  check(std::ssize(lengths) <= batch_, "no more streams than the batch has rows");
  if (!decoder_)
    decoder_.emplace(model_, batch_, Decoder::Choose{}, kept_in_stream(model_.config()));
  std::vector<uint16_t> tokens(static_cast<size_t>(batch_), kEndOfDocument);
  decoder_->prompt(tokens.data(), ends_documents(model_.config().vocab_size) ? 1 : 0);
  std::fill(tokens.begin(), tokens.end(), 0);
  const size_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  for (size_t t = 0; t < longest; ++t) {
    const uint32_t* frequencies = frequencies_of(decoder_->advance());
    uint64_t coded = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      if (t >= lengths[b]) continue;
      tokens[b] = each(b, t, frequencies + b * kByteValues);
      ++coded;
    }
    decoder_->accept(tokens.data());
    if (progress) progress(coded);
  }
}

namespace {

void encode_byte(RangeEncoder& encoder, uint8_t byte, const uint32_t* frequencies) {
  encoder.encode(sum(frequencies, byte), frequencies[byte], sum(frequencies, kByteValues));
}

}  // namespace

std::vector<std::vector<uint8_t>> StreamCoder::encode(std::span<const Bytes> streams,
                                                      const Progress& progress) {
  std::vector<std::vector<uint8_t>> coded;
  if (model_.config().latents == 0) {
    for (const Bytes stream : streams) coded.push_back(encode(stream, progress));
    return coded;
  }
  // Of Perceiver AR's latents a byte sees others in a whole row than when it is decoded.
  std::vector<RangeEncoder> encoders(streams.size());
  std::vector<size_t> lengths;
  for (const Bytes stream : streams) lengths.push_back(stream.size());
  step_through(lengths, progress, [&](size_t b, size_t t, const uint32_t* frequencies) {
    encode_byte(encoders[b], streams[b][t], frequencies);
    return streams[b][t];
  });
  for (RangeEncoder& encoder : encoders) coded.push_back(encoder.finish());
  return coded;
}

std::vector<uint8_t> StreamCoder::encode(Bytes stream, const Progress& progress) {
  constexpr int64_t kRows = 64;  // of frequencies that stay in the nearest memory
  const Config& config = model_.config();
  if (!encoder_) encoder_ = model_.share();
  std::vector<uint16_t> symbols(stream.begin(), stream.end());
  const int64_t before = ends_documents(config.vocab_size) ? 1 : 0;
  symbols.insert(symbols.begin(), static_cast<size_t>(before), kEndOfDocument);
  RangeEncoder encoder;
  WindowWalk walk(config, ScoringMethod::sliding, std::ssize(symbols), kept_in_stream(config));
  while (const std::optional<Window> window = walk.next()) {
    encoder_->prepare({.batch = 1, .length = window->length});
    encoder_->load(symbols.data() + window->start);
    encoder_->forward();
    const Tensor all = encoder_->logits();
    const Tensor logits = all.view({all.size() / config.vocab_size, config.vocab_size});
    const int64_t first = std::max(window->first, before - window->start);
    for (int64_t i = first; i < window->length; i += kRows) {
      const int64_t rows = std::min(kRows, window->length - i);
      const uint32_t* frequencies = frequencies_of(logits.slice(i, rows));
      for (int64_t r = 0; r < rows; ++r)
        encode_byte(encoder,
                    static_cast<uint8_t>(symbols[static_cast<size_t>(window->start + i + r)]),
                    frequencies + r * static_cast<int64_t>(kByteValues));
    }
    if (progress && first < window->length) progress(static_cast<uint64_t>(window->length - first));
  }
  return encoder.finish();
}

void StreamCoder::decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
                         const Progress& progress) {
  check(coded.size() == to.size(), "as many streams as places for them");
  std::vector<RangeDecoder> decoders(coded.begin(), coded.end());
  std::vector<size_t> lengths;
  for (const std::span<uint8_t> stream : to) lengths.push_back(stream.size());
  step_through(lengths, progress, [&](size_t b, size_t t, const uint32_t* f) {
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
  Decoder decoder(with_all_bytes(model), kRows, {}, kept_in_stream(config));
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
