// Bits per byte of whole files, each byte scored exactly once (the methods: eval/windows.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/windows.h"
#include "model/hierarchy.h"

namespace megabyte {

struct Score {
  double nats = 0;
  int64_t bytes = 0;            // scored
  int64_t forward_bytes = 0;    // run through the model: forward_bytes / bytes is the method's cost
  std::vector<double> nats_at;  // by place in stage 0's patch, P entries
  std::vector<int64_t> bytes_at;

  double bits_per_byte() const;
  double bits_per_byte_at(size_t place) const;
  Score& operator+=(const Score& other);
};

double bits_per_byte(double nats, int64_t bytes);

class Scorer {
 public:
  using Progress = std::function<void(const Score& so_far)>;

  // Runs up to `batch` windows at once.
  Scorer(Hierarchy& model, ScoringMethod method, int64_t batch);
  // Scores one file as a sequence of its own. An Error about a byte outside the vocabulary names
  // it.
  Score score(const std::string& name, std::span<const uint8_t> file,
              const Progress& progress = {});

 private:
  void run(const std::string& name, std::span<const uint8_t> file,
           const std::vector<Window>& windows, Score& score);

  Hierarchy& model_;
  ScoringMethod method_;
  size_t batch_;
  std::vector<uint16_t> tokens_;
  std::vector<double> losses_;
};

int64_t count_words(std::span<const uint8_t> text);  // separated by ASCII white space

}  // namespace megabyte
