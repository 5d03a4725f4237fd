// Bits per byte of whole files, each byte scored exactly once (the methods: eval/windows.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/windows.h"
#include "model/hierarchy.h"

namespace megabyte {

struct Score {
  double nats = 0;              // of bytes and of ends of documents
  int64_t bytes = 0;            // scored
  int64_t forward_bytes = 0;    // run through the model: runs_per_byte() is the method's cost
  double flops = 0;             // of these, counted exactly (model/cost.h)
  std::vector<double> nats_at;  // by place in stage 0's patch, P entries
  std::vector<int64_t> symbols_at;

  double bits_per_byte() const;
  std::vector<double> bits_per_byte_by_place() const;  // NaN where nothing was scored
  double runs_per_byte() const {
    return static_cast<double>(forward_bytes) / static_cast<double>(bytes);
  }
  double flops_per_byte() const { return flops / static_cast<double>(bytes); }
  Score& operator+=(const Score& other);
};

double bits_per_byte(double nats, int64_t bytes);

class Scorer {
 public:
  using Progress = std::function<void(const Score& so_far)>;

  // Runs up to `batch` windows at once, which keep `kept` bytes where they slide (WindowWalk).
  Scorer(Hierarchy& model, ScoringMethod method, int64_t batch, std::optional<int64_t> kept = {});
  // Scores one document as a sequence of its own. Where the model knows the ends of documents it
  // begins after one, and, if it is `complete`, its own end is scored too: in nats, not in bytes.
  // An Error about a byte outside the vocabulary names it.
  Score score(const std::string& name, std::span<const uint8_t> document,
              const Progress& progress = {}, bool complete = true);

 private:
  uint16_t symbol(int64_t i) const;  // of the document, its ends included
  void run(const std::string& name, const std::vector<Window>& windows, Score& score);

  Hierarchy& model_;
  ScoringMethod method_;
  size_t batch_;
  std::optional<int64_t> kept_;
  std::span<const uint8_t> document_;
  int64_t before_ = 0;  // symbols before its first byte, not scored
  std::vector<uint16_t> tokens_;
  std::vector<double> losses_;
  int64_t counted_length_ = 0;  // of the row that has
  double row_flops_ = 0;
};

int64_t count_words(std::span<const uint8_t> text);  // separated by ASCII white space

}  // namespace megabyte
