#include "train/training_data.h"

#include <algorithm>

#include "base/error.h"
#include "data/batches.h"

namespace megabyte {

TrainingData::TrainingData(const TrainSettings& settings, int64_t context)
    : data_(settings.data), align_(settings.align) {
  check_aligned(data_, align_);
  if (settings.valid.empty()) {
    std::tie(train_range_, valid_range_) = split_held_out(data_, align_);
  } else {
    valid_ = std::make_unique<ByteDataset>(settings.valid);
    check_aligned(*valid_, align_);
    train_range_ = data_.all();
    valid_range_ = valid_->all();
  }
  check_window(train_range_, context, "the training data");
}

Rows TrainingData::held_out_rows(int64_t bytes, int64_t context, int64_t vocab) const {
  if (valid_bytes() == 0) return {};
  const int64_t length = std::min(context, valid_bytes());
  const int64_t stride = (length + align_ - 1) / align_ * align_;  // side by side
  const int64_t fitting = (valid_bytes() - length) / stride + 1;
  const int64_t rows = std::clamp(bytes / length, int64_t{1}, fitting);
  Rows result{.tokens = {}, .length = length};
  result.tokens.reserve(static_cast<size_t>(rows * length));
  std::vector<uint8_t> window(static_cast<size_t>(length));
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = static_cast<uint64_t>(fitting * row / rows * stride);
    (valid_ ? *valid_ : data_).read(valid_range_.begin + begin, window);
    for (const uint8_t byte : window) {
      if (byte >= vocab)
        fail("the held-out data has byte {}, but the model knows only {} symbols: raise vocab_size",
             byte, vocab);
      result.tokens.push_back(byte);
    }
  }
  return result;
}

}  // namespace megabyte
