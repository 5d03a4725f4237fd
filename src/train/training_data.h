// What a run reads: the symbols (bytes, ends of documents) to train on, and the held-out ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/byte_dataset.h"
#include "model/config.h"
#include "train/settings.h"

namespace megabyte {

// Rows of equal length, one after another.
struct Rows {
  std::vector<uint16_t> tokens;
  int64_t length = 0;
};

class TrainingData {
 public:
  // With the ends of documents, if the model knows them. Error if there is less to train on than
  // one window of the context, or a file does not keep to settings.align.
  TrainingData(const TrainSettings& settings, const Config& config);

  const ByteDataset& train() const { return data_; }
  const ByteRange& train_range() const { return train_range_; }
  const ByteDataset& held_out() const { return valid_ ? *valid_ : data_; }
  const ByteRange& held_out_range() const { return valid_range_; }
  int64_t train_bytes() const { return static_cast<int64_t>(train_range_.size()); }
  int64_t valid_bytes() const { return static_cast<int64_t>(valid_range_.size()); }

  // About `bytes` held-out bytes in windows of at most one context, spread evenly and the same
  // every time; none if nothing is held out. Error for a byte outside the vocabulary.
  Rows held_out_rows(int64_t bytes) const;

 private:
  ByteDataset data_;
  std::unique_ptr<ByteDataset> valid_;  // none: the held-out bytes are the last of data_
  ByteRange train_range_, valid_range_;
  int64_t align_, context_, vocab_;
};

}  // namespace megabyte
