// Random windows of training data. The windows of a step follow from (seed, step) alone: the data
// cursor of a run is its step, and resuming needs nothing else.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/byte_dataset.h"

namespace megabyte {

struct BatchShape {
  int64_t rows;       // of a step in all
  int64_t length;     // bytes of a window
  int64_t vocab;      // bytes from here on are an Error that names file and place
  int64_t align = 1;  // windows begin at multiples of so many bytes
};

// Error that names both sizes when `range` holds less than one window; `what` names the data.
void check_window(const ByteRange& range, int64_t length, const std::string& what);

// Where the window of one row of one step begins: uniform over all places, `align` bytes apart from
// the range's begin on, where it fits in the range.
uint64_t window_begin(const ByteRange& range, int64_t length, uint64_t seed, uint64_t step,
                      int64_t row, int64_t align = 1);

// tokens (rows, length).
void fill_batch(const ByteDataset& data, const ByteRange& range, const BatchShape& shape,
                uint64_t seed, uint64_t step, uint16_t* tokens);

// Fills the batches of steps first, first + 1, .. end - 1 on a thread of its own, one ahead of the
// one in use, and never beyond the last.
class BatchLoader {
 public:
  BatchLoader(const ByteDataset& data, const ByteRange& range, const BatchShape& shape,
              uint64_t seed, uint64_t first, uint64_t end);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next step's tokens (rows, length), valid until the next call. Throws what loading threw.
  const std::vector<uint16_t>& next();

 private:
  void run(uint64_t first, uint64_t end);

  const ByteDataset& data_;
  ByteRange range_;
  BatchShape shape_;
  uint64_t seed_;
  std::vector<uint16_t> current_, ahead_;

  std::mutex mutex_;  // guards what follows, and ahead_ when ready_
  std::condition_variable changed_;
  bool ready_ = false, finished_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace megabyte
