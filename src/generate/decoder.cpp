#include "generate/decoder.h"

#include <algorithm>
#include <utility>

namespace megabyte {
namespace {

// Of a model without patches.
constexpr int64_t kRunOfBytes = 16;

// Recordings take memory, and time to be made.
constexpr int64_t kMostRecordings = 512;

}  // namespace

int64_t Decoder::half_context(const Config& config) {
  const int64_t half = config.context() / 2, patch = config.patch_bytes(0);
  return half >= patch ? half / patch * patch : half;
}

Decoder::Decoder(const Hierarchy& model, int64_t batch, Choose choose, std::optional<int64_t> kept)
    : model_(model),
      backend_(model.backend()),
      batch_(batch),
      context_(model.config().context()),
      patch_(model.config().patch_bytes(0)),
      run_length_(patch_ > 1 ? patch_ : kRunOfBytes),
      kept_(kept.value_or(half_context(model.config()))),
      choose_(std::move(choose)),
      rows_(static_cast<size_t>(batch * context_)) {
  check(batch > 0, "a batch has rows");
  check(kept_ >= 0 && kept_ < context_, "a full row loses some of its bytes");
  Arena measure;
  plan(measure);
  buffer_ = backend_.allocate(measure.peak());
  Arena arena(buffer_.data());
  plan(arena);
  reset();
  const bool alike = std::all_of(stages_.begin() + 1, stages_.end(),
                                 [](const StageDecoder& stage) { return stage.repeats(); });
  const int64_t places = alike ? 2 : context_ / patch_;
  if (places <= kMostRecordings) patches_.resize(static_cast<size_t>(places));
}

size_t Decoder::memory(const Hierarchy& model, int64_t batch) {
  Arena measure;
  for (int s = 0; s < model.config().stage_count(); ++s) StageDecoder(model, s, batch, measure);
  return measure.peak();
}

void Decoder::plan(Arena& arena) {
  const Config& config = model_.config();
  stages_.clear();
  for (int s = 0; s < config.stage_count(); ++s) stages_.emplace_back(model_, s, batch_, arena);
  tokens_ = arena.make({run_length_, batch_}, DType::u16);
  bytes_ = arena.make({batch_ * patch_}, DType::u16);
  logits_ = arena.make({batch_, config.vocab_size}, master_dtype(model_.compute()));
}

void Decoder::reset() {
  for (StageDecoder& stage : stages_) stage.reset();
  length_ = 0;
  advanced_ = coarsest_ahead_ = false;
}

void Decoder::prompt(const uint16_t* tokens, int64_t count) {
  int64_t skipped = 0;
  const int64_t dropped = context_ - kept_;
  while (count - skipped >= context_) skipped += dropped;
  std::vector<uint16_t> rows;
  for (int64_t b = 0; b < batch_; ++b)
    rows.insert(rows.end(), tokens + b * count + skipped, tokens + (b + 1) * count);
  start(rows);
}

void Decoder::start(const std::vector<uint16_t>& rows) {
  reset();
  const int64_t count = static_cast<int64_t>(rows.size()) / batch_, patches = count / patch_;
  const auto at = [&](int64_t b, int64_t t) { return rows[static_cast<size_t>(b * count + t)]; };
  if (patches > 0) {
    // One patch more than there is, of any symbols.
    const int64_t row = (patches + 1) * patch_;
    std::vector<uint16_t> padded(static_cast<size_t>(batch_ * row));
    for (int64_t b = 0; b < batch_; ++b)
      for (int64_t t = 0; t < patches * patch_; ++t)
        padded[static_cast<size_t>(b * row + t)] = rows_[static_cast<size_t>(t * batch_ + b)] =
            at(b, t);
    if (patches * patch_ != kept_) {
      Prefill(model_, stages_, batch_, patches).run(stages_, padded.data());
    } else {
      if (!slide_) slide_.emplace(model_, stages_, batch_, patches);
      slide_->run(stages_, padded.data());
    }
    length_ = patches * patch_;
  }
  std::vector<uint16_t> column(static_cast<size_t>(batch_));
  while (length_ < count) {
    for (int64_t b = 0; b < batch_; ++b) column[static_cast<size_t>(b)] = at(b, length_);
    run_stage(stages_.size() - 1, 0);
    advanced_ = true;
    accept(column.data());
  }
}

void Decoder::slide() {
  std::vector<uint16_t> rows;
  for (int64_t b = 0; b < batch_; ++b)
    for (int64_t t = context_ - kept_; t < context_; ++t)
      rows.push_back(rows_[static_cast<size_t>(t * batch_ + b)]);
  start(rows);
}

void Decoder::run_stage(size_t s, size_t coarsest) {
  if (s == 0 && std::exchange(coarsest_ahead_, false)) return;
  if (s > 0 && stages_[s].starts_sequence()) {
    if (s > coarsest) run_stage(s - 1, coarsest);
    stages_[s].condition(stages_[s - 1].out());
  }
  stages_[s].step();
}

void Decoder::step(size_t coarsest) {
  run_stage(stages_.size() - 1, coarsest);
  backend_.linear_forward(stages_.back().out(), model_.head().value, {}, Activation::none, {},
                          logits_);
}

const Tensor& Decoder::advance() {
  check(!advanced_, "accept() follows advance()");
  if (full()) slide();
  step(0);
  advanced_ = true;
  return logits_;
}

void Decoder::accept(const uint16_t* tokens) {
  check(advanced_, "accept() follows advance()");
  backend_.from_host(token(length_ % run_length_), tokens);
  std::copy_n(tokens, batch_, rows_.begin() + length_ * batch_);
  ++length_;
  advanced_ = false;
  complete(0);
}

void Decoder::complete(size_t coarsest) {
  for (size_t s = stages_.size(); s-- > coarsest;) {
    if (length_ % model_.config().patch_bytes(static_cast<int>(s)) != 0) return;
    complete_stage(s);
  }
}

void Decoder::complete_stage(size_t s) {
  const Config& config = model_.config();
  StageDecoder& stage = stages_[s];
  if (config.encodes(static_cast<int>(s) + 1)) return stage.take_pooled(stages_[s + 1].pool());
  const int64_t P = config.patch_bytes(static_cast<int>(s)), first = (length_ - P) % run_length_;
  if (batch_ == 1 || P == 1) return stage.take_bytes(tokens_.slice(first, P));
  const Tensor bytes = bytes_.slice(0, batch_ * P);
  for (int64_t i = 0; i < P; ++i)
    backend_.copy_rows(token(first + i), 1, bytes.slice(i, batch_ * P - i), P, batch_, 1);
  stage.take_bytes(bytes);
}

Decoder::Run Decoder::next_run(int64_t most) {
  check(!advanced_, "accept() follows advance()");
  if (full()) slide();
  const int64_t first = length_ % run_length_;
  return {first, std::min({most, run_length_ - first, context_ - length_})};
}

const std::vector<uint16_t>& Decoder::draw(const Run& run) {
  check(choose_ && run.first == length_ % run_length_ && run.count > 0 &&
            run.first + run.count <= run_length_ && length_ + run.count <= context_,
        "draw: the next run");
  const int64_t start = length_;
  if (run.count == patch_ && run_length_ == patch_)
    draw_patch(run);
  else
    draw_each(run, 0);
  drawn_.resize(static_cast<size_t>(run.count * batch_));
  const auto wait = backend_.fetch(drawn_.data(), tokens_.slice(run.first, run.count));
  // The caller gets these bytes while the device begins the next patch.
  if (backend_.asynchronous() && length_ % run_length_ == 0 && !full()) {
    run_stage(0, 0);
    coarsest_ahead_ = true;
  }
  wait();
  std::copy(drawn_.begin(), drawn_.end(), rows_.begin() + start * batch_);
  return drawn_;
}

void Decoder::draw_each(const Run& run, size_t coarsest) {
  for (int64_t i = run.first; i < run.first + run.count; ++i) {
    step(coarsest);
    choose_(i, logits_, token(i));
    ++length_;
    complete(coarsest);
  }
}

void Decoder::draw_patch(const Run& run) {
  if (patches_.empty()) return draw_each(run, 0);
  const int64_t end = length_ + patch_;
  const auto place = std::min(length_ / patch_, static_cast<int64_t>(patches_.size()) - 1);
  Patch& patch = patches_[static_cast<size_t>(place)];
  if (patch.has_run && !patch.recording)
    patch.recording = backend_.record([&] { draw_each(run, 1); }, batch_);
  if (!patch.recording) {
    backend_.run_rows([&] { draw_each(run, 0); }, batch_);
    patch.has_run = true;
    return;
  }
  run_stage(0, 0);
  patch.recording->replay();
  length_ = end;
  for (size_t s = 1; s < stages_.size(); ++s) stages_[s].skip(end / patch_);
  complete_stage(0);
}

}  // namespace megabyte
