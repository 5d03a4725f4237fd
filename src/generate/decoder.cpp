#include "generate/decoder.h"

#include <algorithm>

#include "generate/prefill.h"

namespace megabyte {
namespace {

Tensor from(const Tensor& flat, int64_t begin) { return flat.slice(begin, flat.size() - begin); }

}  // namespace

int64_t Decoder::kept_when_full(const Config& config) {
  const int64_t half = config.context() / 2, patch = config.patch_bytes(0);
  return half >= patch ? half / patch * patch : half;
}

Decoder::Decoder(const Hierarchy& model, int64_t batch)
    : model_(model), backend_(model.backend()), batch_(batch), context_(model.config().context()) {
  check(batch > 0, "a batch has rows");
  Arena measure;
  plan(measure);
  buffer_ = backend_.allocate(measure.peak());
  Arena arena(buffer_.data());
  plan(arena);
  backend_.zero(prompt_);  // prefill() reads past a prompt's end: symbols, but any
  staging_.resize(static_cast<size_t>(batch * context_));
  reset();
}

void Decoder::plan(Arena& arena) {
  const Config& config = model_.config();
  stages_.clear();
  for (int s = 0; s < config.stage_count(); ++s) stages_.emplace_back(model_, s, batch_, arena);
  row_ = arena.make({batch_ * context_}, DType::u16);
  prompt_ = arena.make({batch_ * context_}, DType::u16);
  bytes_ = arena.make({batch_ * config.patch_bytes(0)}, DType::u16);
  token_ = arena.make({batch_}, DType::u16);
  logits_ = arena.make({batch_, config.vocab_size}, master_dtype(model_.compute()));
}

void Decoder::reset() {
  for (StageDecoder& stage : stages_) stage.reset();
  length_ = 0;
  advanced_ = false;
}

void Decoder::prompt(const uint16_t* tokens, int64_t count) {
  int64_t skipped = 0;
  const int64_t dropped = context_ - kept_when_full(model_.config());
  while (count - skipped >= context_) skipped += dropped;
  const int64_t kept = count - skipped;
  for (int64_t b = 0; b < batch_; ++b)
    std::copy_n(tokens + b * count + skipped, kept, staging_.begin() + b * context_);
  backend_.from_host(prompt_, staging_.data());
  reset();
  feed(kept);
}

void Decoder::feed(int64_t count) {
  const int64_t P = model_.config().patch_bytes(0), patches = count / P, together = patches * P;
  if (patches > 0) {
    const int64_t row = together + P;
    const Buffer buffer =
        backend_.allocate(static_cast<size_t>(batch_ * row) * size_of(DType::u16));
    const Tensor tokens{buffer.data(), DType::u16, {batch_ * row}};
    backend_.copy_rows(prompt_, context_, tokens, row, batch_, row);
    prefill(model_, stages_, batch_, patches, tokens);
    backend_.copy_rows(prompt_, context_, row_, context_, batch_, together);
    length_ = together;
  }
  for (int64_t t = together; t < count; ++t) {
    run(stages_.size() - 1);
    advanced_ = true;
    backend_.copy_rows(from(prompt_, t), context_, token_, 1, batch_, 1);
    accept(token_);
  }
}

void Decoder::slide() {
  const int64_t kept = kept_when_full(model_.config());
  backend_.copy_rows(from(row_, context_ - kept), context_, prompt_, context_, batch_, kept);
  reset();
  feed(kept);
}

void Decoder::run(size_t s) {
  if (s > 0 && stages_[s].starts_sequence()) {
    run(s - 1);
    stages_[s].condition(stages_[s - 1].out());
  }
  stages_[s].step();
}

const Tensor& Decoder::advance() {
  check(!advanced_, "accept() follows advance()");
  if (length_ == context_) slide();
  run(stages_.size() - 1);
  backend_.linear_forward(stages_.back().out(), model_.head().value, {}, Activation::none, {},
                          logits_);
  advanced_ = true;
  return logits_;
}

void Decoder::accept(const Tensor& tokens) {
  check(advanced_, "accept() follows advance()");
  backend_.copy_rows(tokens, 1, from(row_, length_), context_, batch_, 1);
  ++length_;
  advanced_ = false;
  complete();
}

void Decoder::complete() {
  const Config& config = model_.config();
  for (int s = config.stage_count(); s-- > 0;) {
    const int64_t P = config.patch_bytes(s);
    if (length_ % P != 0) return;
    StageDecoder& stage = stages_[static_cast<size_t>(s)];
    if (config.encodes(s + 1)) {
      stage.take_pooled(stages_[static_cast<size_t>(s + 1)].pool());
    } else {
      const Tensor bytes = bytes_.slice(0, batch_ * P);
      backend_.copy_rows(from(row_, length_ - P), context_, bytes, P, batch_, P);
      stage.take_bytes(bytes);
    }
  }
}

}  // namespace megabyte
