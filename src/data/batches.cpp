#include "data/batches.h"

#include <algorithm>

#include "base/error.h"
#include "base/random.h"

namespace megabyte {
namespace {

// Apart from the streams of initial values and dropout.
constexpr uint64_t kWindowStream = uint64_t{1} << 63;

// Names the first byte that is no symbol of the model.
[[noreturn]] void fail_beyond_vocab(const ByteDataset& data, uint64_t offset, int byte,
                                    int64_t vocab) {
  const ByteDataset::Document& document = data.document_at(offset);
  fail("{} has byte {} at {}, but the model knows only {} symbols: raise vocab_size",
       data.files()[document.file].path.string(), byte, document.from + offset - document.begin,
       vocab);
}

}  // namespace

void check_window(const ByteRange& range, int64_t length, const std::string& what) {
  if (range.size() < static_cast<uint64_t>(length))
    fail(
        "{} has {} bytes, fewer than one window of {}: give more data or shorten the context, for "
        "example with --set stages.0.length=...",
        what, range.size(), length);
}

uint64_t window_begin(const ByteRange& range, int64_t length, uint64_t seed, uint64_t step,
                      int64_t row, int64_t align) {
  // Each row has a stream of its own: 2^31 rows, 2^32 steps.
  Random random(seed, kWindowStream + (static_cast<uint64_t>(row) << 32) + step);
  const auto apart = static_cast<uint64_t>(align);
  const uint64_t last = (range.size() - static_cast<uint64_t>(length)) / apart;
  return range.begin + apart * random.below(last + 1);
}

void fill_batch(const ByteDataset& data, const ByteRange& range, const BatchShape& shape,
                uint64_t seed, uint64_t step, uint16_t* tokens) {
  const auto length = static_cast<size_t>(shape.length);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const uint64_t begin = window_begin(range, shape.length, seed, step, row, shape.align);
    data.read(begin, {tokens, length});
    for (size_t i = 0; i < length; ++i)
      if (tokens[i] >= shape.vocab) fail_beyond_vocab(data, begin + i, tokens[i], shape.vocab);
    tokens += length;
  }
}

BatchLoader::BatchLoader(const ByteDataset& data, const ByteRange& range, const BatchShape& shape,
                         uint64_t seed, uint64_t first, uint64_t end)
    : data_(data), range_(range), shape_(shape), seed_(seed) {
  check_window(range, shape.length, "the training data");
  const auto tokens = static_cast<size_t>(shape.rows * shape.length);
  current_.resize(tokens);
  ahead_.resize(tokens);
  thread_ = std::thread([this, first, end] { run(first, end); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BatchLoader::run(uint64_t first, uint64_t end) {
  std::exception_ptr error;
  try {
    for (uint64_t step = first; step < end; ++step) {
      fill_batch(data_, range_, shape_, seed_, step, ahead_.data());
      std::unique_lock lock(mutex_);
      ready_ = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return !ready_ || stop_; });
      if (stop_) return;
    }
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  error_ = error;
  finished_ = true;
  changed_.notify_all();
}

const std::vector<uint16_t>& BatchLoader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_ || finished_; });
  if (!ready_) {
    if (error_) std::rethrow_exception(error_);
    check(false, "no batch is asked for beyond the last step");
  }
  std::swap(current_, ahead_);
  ready_ = false;
  changed_.notify_all();
  return current_;
}

}  // namespace megabyte
