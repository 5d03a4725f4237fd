// What a run reads: the bytes to train on, and the held-out ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/byte_dataset.h"
#include "train/settings.h"

namespace megabyte {

// Rows of equal length, one after another.
struct Rows {
  std::vector<uint16_t> tokens;
  int64_t length = 0;
};

class TrainingData {
 public:
  // Error if there is less to train on than one window of `context` bytes, or a file does not keep
  // to settings.align.
  TrainingData(const TrainSettings& settings, int64_t context);

  const ByteDataset& train() const { return data_; }
  const ByteRange& train_range() const { return train_range_; }
  int64_t train_bytes() const { return static_cast<int64_t>(train_range_.size()); }
  int64_t valid_bytes() const { return static_cast<int64_t>(valid_range_.size()); }

  // About `bytes` held-out bytes in windows of at most one context, spread evenly and the same
  // every time; none if nothing is held out. Error for a byte outside the vocabulary.
  Rows held_out_rows(int64_t bytes, int64_t context, int64_t vocab) const;

 private:
  ByteDataset data_;
  std::unique_ptr<ByteDataset> valid_;  // none: the held-out bytes are the last of data_
  ByteRange train_range_, valid_range_;
  int64_t align_;
};

}  // namespace megabyte
