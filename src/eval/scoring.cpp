#include "eval/scoring.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "base/error.h"
#include "data/byte_dataset.h"
#include "model/cost.h"

namespace megabyte {

double bits_per_byte(double nats, int64_t bytes) {
  return nats / std::numbers::ln2 / static_cast<double>(bytes);
}

double Score::bits_per_byte() const { return megabyte::bits_per_byte(nats, bytes); }

std::vector<double> Score::bits_per_byte_by_place() const {
  std::vector<double> bpb(nats_at.size(), std::numeric_limits<double>::quiet_NaN());
  for (size_t i = 0; i < bpb.size(); ++i)
    if (symbols_at[i] > 0) bpb[i] = megabyte::bits_per_byte(nats_at[i], symbols_at[i]);
  return bpb;
}

Score& Score::operator+=(const Score& other) {
  nats += other.nats;
  bytes += other.bytes;
  forward_bytes += other.forward_bytes;
  flops += other.flops;
  nats_at.resize(other.nats_at.size());
  symbols_at.resize(other.symbols_at.size());
  for (size_t i = 0; i < nats_at.size(); ++i) {
    nats_at[i] += other.nats_at[i];
    symbols_at[i] += other.symbols_at[i];
  }
  return *this;
}

Scorer::Scorer(Hierarchy& model, ScoringMethod method, int64_t batch, std::optional<int64_t> kept)
    : model_(model), method_(method), batch_(static_cast<size_t>(batch)), kept_(kept) {
  check(batch > 0, "a batch has windows");
}

Score Scorer::score(const std::string& name, std::span<const uint8_t> document,
                    const Progress& progress, bool complete) {
  const bool ends = ends_documents(model_.config().vocab_size);
  document_ = document;
  before_ = ends ? 1 : 0;
  const int64_t symbols = before_ + std::ssize(document) + (ends && complete ? 1 : 0);
  const auto places = static_cast<size_t>(model_.config().patch_bytes(0));
  Score score{.nats_at = std::vector<double>(places), .symbols_at = std::vector<int64_t>(places)};
  WindowWalk walk(model_.config(), method_, symbols, kept_);
  std::vector<Window> batch;
  const auto flush = [&] {
    if (batch.empty()) return;
    run(name, batch, score);
    batch.clear();
    if (progress) progress(score);
  };
  while (const std::optional<Window> window = walk.next()) {
    if (batch.size() == batch_ || (!batch.empty() && batch.front().length != window->length))
      flush();
    batch.push_back(*window);
  }
  flush();
  return score;
}

uint16_t Scorer::symbol(int64_t i) const {
  const bool byte = i >= before_ && i - before_ < std::ssize(document_);
  return byte ? document_[static_cast<size_t>(i - before_)] : kEndOfDocument;
}

void Scorer::run(const std::string& name, const std::vector<Window>& windows, Score& score) {
  const int64_t vocab = model_.config().vocab_size;
  const int64_t length = windows.front().length, patch = model_.config().patch_bytes(0);
  tokens_.clear();
  for (const Window& w : windows)
    for (int64_t i = w.start; i < w.start + length; ++i) {
      tokens_.push_back(symbol(i));
      if (tokens_.back() >= vocab)
        fail("{} has byte {} at {}, but the model knows only {} symbols", name, tokens_.back(),
             i - before_, vocab);
    }
  const auto rows = static_cast<int64_t>(windows.size());
  model_.prepare({.batch = rows, .length = length});
  model_.load(tokens_.data());
  model_.forward();
  model_.loss(1.0);
  model_.copy_losses(losses_);
  const int64_t predicted = model_.predicted(length), skipped = length - predicted;
  if (length != counted_length_) {
    row_flops_ = count_cost(model_.config(), length).forward() * static_cast<double>(predicted);
    counted_length_ = length;
  }
  score.forward_bytes += rows * length;
  score.flops += row_flops_ * static_cast<double>(rows);

  for (int64_t r = 0; r < rows; ++r) {
    const Window& w = windows[static_cast<size_t>(r)];
    check(w.first >= skipped, "a window counts predicted bytes only");
    for (int64_t i = w.first; i < length; ++i) {
      if (!w.counts(i, patch) || w.start + i < before_) continue;
      const double nats = losses_[static_cast<size_t>(r * predicted + i - skipped)];
      const auto place = static_cast<size_t>(i % patch);
      score.nats += nats;
      score.nats_at[place] += nats;
      score.bytes += symbol(w.start + i) != kEndOfDocument;
      ++score.symbols_at[place];
    }
  }
}

int64_t count_words(std::span<const uint8_t> text) {
  const auto space = [](uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  int64_t words = 0;
  bool inside = false;
  for (const uint8_t c : text) {
    words += !space(c) && !inside;
    inside = !space(c);
  }
  return words;
}

}  // namespace megabyte
