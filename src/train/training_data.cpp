#include "train/training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <tuple>

#include "base/error.h"
#include "data/batches.h"

namespace megabyte {

TrainingData::TrainingData(const TrainSettings& settings, const Config& config)
    : data_(settings.data, ends_documents(config.vocab_size)),
      align_(settings.align),
      context_(config.context()),
      vocab_(config.vocab_size) {
  if (align_ > 1 && ends_documents(vocab_))
    throw UsageError(
        "--align is for records of one size, an end-of-document symbol for documents of any: give "
        "one of them");
  check_aligned(data_, align_);
  const int64_t shortest = settings.window(context_, 0);
  if (context_ % shortest != 0)
    throw UsageError(fmt::format(
        "--short-length {} must divide the context of {} bytes, so that every step has as many "
        "bytes: give a divisor, or 0 for windows of the context throughout",
        shortest, context_));
  if (settings.valid.empty()) {
    std::tie(train_range_, valid_range_) = split_held_out(data_, align_);
  } else {
    valid_ = std::make_unique<ByteDataset>(settings.valid, ends_documents(vocab_));
    check_aligned(*valid_, align_);
    train_range_ = data_.all();
    valid_range_ = valid_->all();
  }
  check_window(train_range_, context_, "the training data");
}

Rows TrainingData::held_out_rows(int64_t bytes) const {
  if (valid_bytes() == 0) return {};
  const int64_t length = std::min(context_, valid_bytes());
  const int64_t stride = (length + align_ - 1) / align_ * align_;  // side by side
  const int64_t fitting = (valid_bytes() - length) / stride + 1;
  const int64_t rows = std::clamp(bytes / length, int64_t{1}, fitting);
  Rows result{.tokens = std::vector<uint16_t>(static_cast<size_t>(rows * length)),
              .length = length};
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = static_cast<uint64_t>(fitting * row / rows * stride);
    held_out().read(valid_range_.begin + begin,
                    std::span(result.tokens)
                        .subspan(static_cast<size_t>(row * length), static_cast<size_t>(length)));
  }
  for (const uint16_t symbol : result.tokens)
    if (symbol >= vocab_)
      fail("the held-out data has byte {}, but the model knows only {} symbols: raise vocab_size",
           symbol, vocab_);
  return result;
}

}  // namespace megabyte
