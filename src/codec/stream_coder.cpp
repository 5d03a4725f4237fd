#include "codec/stream_coder.h"

#include <algorithm>
#include <memory>
#include <utility>

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

ByteCoding& byte_coding(Backend& backend) {
  auto* coding = dynamic_cast<ByteCoding*>(&backend);
  if (coding == nullptr)
    fail("the {} backend codes nothing: its numbers are not exact", backend.name());
  return *coding;
}

}  // namespace

int64_t kept_in_stream(const Config& config) {
  const int64_t patches = config.stages.front().length;
  return patches == 1 ? 0 : std::max<int64_t>(1, patches / 8) * config.patch_bytes(0);
}

StreamCoder::StreamCoder(const Hierarchy& model, int64_t batch)
    : model_(with_all_bytes(model)), coding_(byte_coding(model.backend())), batch_(batch) {
  check(batch > 0, "a batch has rows");
  // A window has many rows of its own.
  window_rows_ = std::clamp<int64_t>(coding_.rows_that_pay() / model.config().context(), 1, batch);
}

int64_t StreamCoder::batch_that_pays(const Hierarchy& model) {
  const ByteCoding& coding = byte_coding(model.backend());
  const auto most = static_cast<int64_t>(coding.spare_memory() / Decoder::memory(model, 1));
  return std::clamp<int64_t>(most, 1, coding.rows_that_pay());
}

std::vector<std::vector<uint8_t>> StreamCoder::encode(std::span<const Bytes> streams,
                                                      const Progress& progress) {
  check(std::ssize(streams) <= batch_, "no more streams than the batch has rows");
  std::vector<RangeEncoder> encoders(streams.size());
  const auto group =
      model_.config().latents > 0 ? streams.size() : static_cast<size_t>(window_rows_);
  for (size_t b = 0; b < streams.size(); b += group) {
    const size_t count = std::min(group, streams.size() - b);
    const auto some = streams.subspan(b, count);
    const std::span to(&encoders[b], count);
    if (model_.config().latents > 0)
      encode_steps(some, to, progress);
    else
      encode_windows(some, to, progress);
  }
  std::vector<std::vector<uint8_t>> coded;
  for (RangeEncoder& encoder : encoders) coded.push_back(encoder.finish());
  return coded;
}

// `to` holds the shares of `bytes` (rows) of the host by logits (rows, V) once the returned
// function has been called.
std::function<void()> StreamCoder::fetch_shares(const Tensor& logits,
                                                const std::vector<uint16_t>& bytes,
                                                std::vector<ByteShare>& to) {
  Backend& backend = model_.backend();
  const size_t rows = bytes.size();
  if (shares_.bytes() < rows * (sizeof(ByteShare) + sizeof(uint16_t)))
    shares_ = backend.allocate(rows * (sizeof(ByteShare) + sizeof(uint16_t)));
  const Tensor shares{shares_.data(), DType::u8, {static_cast<int64_t>(rows * sizeof(ByteShare))}};
  const Tensor symbols{shares_.data() + shares.bytes(), DType::u16, {static_cast<int64_t>(rows)}};
  backend.from_host(symbols, bytes.data());
  coding_.byte_shares(logits, symbols, shares);
  to.resize(rows);
  return backend.fetch(to.data(), shares);
}

void StreamCoder::encode_windows(std::span<const Bytes> streams, std::span<RangeEncoder> encoders,
                                 const Progress& progress) {
  const Config& config = model_.config();
  if (!encoder_) encoder_ = model_.share();
  // All rows as long as the longest: what follows a stream's end is of no account.
  const int64_t before = ends_documents(config.vocab_size) ? 1 : 0, rows = std::ssize(streams);
  const auto end_of = [&](int64_t r) {
    return before + std::ssize(streams[static_cast<size_t>(r)]);
  };
  int64_t longest = 0;
  for (int64_t r = 0; r < rows; ++r) longest = std::max(longest, end_of(r));
  const auto symbol = [&](int64_t r, int64_t place) -> uint16_t {
    if (place < before) return kEndOfDocument;
    return place < end_of(r) ? streams[static_cast<size_t>(r)][static_cast<size_t>(place - before)]
                             : 0;
  };
  std::function<void()> code_last;  // while the device runs the next window
  WindowWalk walk(config, ScoringMethod::sliding, longest, kept_in_stream(config));
  std::vector<uint16_t> tokens, bytes;
  std::vector<ByteShare> fetched[2];  // of this window and the last
  for (size_t turn = 0; const std::optional<Window> window = walk.next(); turn = 1 - turn) {
    encoder_->prepare({.batch = rows, .length = window->length});
    tokens.clear();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < window->length; ++i) tokens.push_back(symbol(r, window->start + i));
    encoder_->load(tokens.data());
    encoder_->forward();
    const Tensor all = encoder_->logits();
    const int64_t length = all.size() / config.vocab_size / rows;
    bytes.assign(static_cast<size_t>(rows * length), 0);
    const int64_t first = std::max(window->first, before - window->start);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = first; i < window->length; ++i)
        bytes[static_cast<size_t>(r * length + i)] =
            tokens[static_cast<size_t>(r * window->length + i)];
    const auto wait =
        fetch_shares(all.view({rows * length, config.vocab_size}), bytes, fetched[turn]);
    if (code_last) code_last();
    code_last = [&, wait, turn, first, length, start = window->start, count = window->length] {
      wait();
      uint64_t coded = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = first; i < std::min(count, end_of(r) - start); ++i, ++coded)
          encoders[static_cast<size_t>(r)].encode(
              fetched[turn][static_cast<size_t>(r * length + i)]);
      if (progress && coded > 0) progress(coded);
    };
  }
  if (code_last) code_last();
}

// Of Perceiver AR's latents a byte sees others in a whole row than when it is decoded.
void StreamCoder::encode_steps(std::span<const Bytes> streams, std::span<RangeEncoder> encoders,
                               const Progress& progress) {
  Decoder& decoder = start();
  size_t longest = 0;
  for (const Bytes stream : streams) longest = std::max(longest, stream.size());
  std::vector<uint16_t> bytes(static_cast<size_t>(batch_));
  std::vector<ByteShare> shares;
  for (size_t t = 0; t < longest; ++t) {
    for (size_t b = 0; b < streams.size(); ++b)
      bytes[b] = t < streams[b].size() ? streams[b][t] : 0;
    fetch_shares(decoder.advance(), bytes, shares)();
    uint64_t coded = 0;
    for (size_t b = 0; b < streams.size(); ++b)
      if (t < streams[b].size()) {
        encoders[b].encode(shares[b]);
        ++coded;
      }
    decoder.accept(bytes.data());
    if (progress) progress(coded);
  }
}

// At the beginning of all streams.
Decoder& StreamCoder::start() {
  if (!decoder_)
    decoder_.emplace(
        model_, batch_,
        [this](int64_t, const Tensor& logits, const Tensor& tokens) {
          coding_.decode_bytes(logits, decoders_, tokens);
        },
        kept_in_stream(model_.config()));
  const std::vector<uint16_t> tokens(static_cast<size_t>(batch_), kEndOfDocument);
  decoder_->prompt(tokens.data(), ends_documents(model_.config().vocab_size) ? 1 : 0);
  return *decoder_;
}

// The streams, and a decoder for each row at its beginning, in the backend's memory.
void StreamCoder::load(std::span<const Bytes> coded) {
  Backend& backend = model_.backend();
  std::vector<uint8_t> all;
  for (const Bytes stream : coded) all.insert(all.end(), stream.begin(), stream.end());
  if (coded_.bytes() < all.size()) coded_ = backend.allocate(all.size());
  if (!all.empty()) backend.from_host({coded_.data(), DType::u8, {std::ssize(all)}}, all.data());
  std::vector<RangeDecoder> decoders(static_cast<size_t>(batch_));
  size_t at = 0;
  for (size_t b = 0; b < coded.size(); ++b) {
    decoders[b] = RangeDecoder(coded[b]);
    decoders[b].move_to(reinterpret_cast<const uint8_t*>(coded_.data()) + at);
    at += coded[b].size();
  }
  const size_t size = decoders.size() * sizeof(RangeDecoder);
  if (!decoders_) {
    decoders_buffer_ = backend.allocate(size);
    decoders_ = {decoders_buffer_.data(), DType::u8, {static_cast<int64_t>(size)}};
  }
  backend.from_host(decoders_, decoders.data());
}

void StreamCoder::decode(std::span<const Bytes> coded, std::span<const std::span<uint8_t>> to,
                         const Progress& progress) {
  check(coded.size() == to.size() && std::ssize(coded) <= batch_,
        "as many streams as places for them, and no more than the batch has rows");
  load(coded);
  Decoder& decoder = start();
  size_t longest = 0;
  for (const std::span<uint8_t> stream : to) longest = std::max(longest, stream.size());
  for (size_t t = 0; t < longest;) {
    const Decoder::Run run = decoder.next_run(static_cast<int64_t>(longest - t));
    const std::vector<uint16_t>& bytes = decoder.draw(run);
    uint64_t decoded = 0;
    for (size_t b = 0; b < to.size(); ++b)
      for (size_t i = 0; i < static_cast<size_t>(run.count) && t + i < to[b].size(); ++i, ++decoded)
        to[b][t + i] = static_cast<uint8_t>(bytes[i * static_cast<size_t>(batch_) + b]);
    t += static_cast<size_t>(run.count);
    if (progress) progress(decoded);
  }
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
