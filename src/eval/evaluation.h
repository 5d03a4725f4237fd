// The score of a dataset: its documents (or files), or a part of it, as `megabyte eval` gives it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/byte_dataset.h"
#include "eval/scoring.h"
#include "model/hierarchy.h"

namespace megabyte {

struct FileScore {
  std::string file;
  Score score;
};

struct Evaluation {
  std::vector<FileScore> files;
  Score total;
  int64_t words = 0, documents = 0;
  double seconds = 0;
  bool ends = false;  // of documents are symbols

  double word_perplexity() const;  // without words there is none: NaN
};

struct EvaluationOptions {
  ScoringMethod method = ScoringMethod::basic;
  std::optional<int64_t> kept;  // bytes that a sliding window keeps (WindowWalk)
  int64_t batch = 0;            // windows run at once; 0 chooses
  int64_t limit = 0;            // only the first so many bytes; 0: all
  // Cuts so many bytes, a document or what is scored of it, into pieces of the bytes given back,
  // each a sequence of its own without an end; none: documents stay whole.
  std::function<uint64_t(uint64_t bytes)> piece;
  std::function<void(const Score& so_far, int64_t bytes_in_all, double seconds)> on_progress;
};

// Scores the symbols of `range`, document by document: each is a sequence of its own, also one that
// the range or the limit cuts. Error about a file that was shortened, or a byte outside the
// vocabulary.
Evaluation evaluate(Hierarchy& model, const ByteDataset& data, const ByteRange& range,
                    const EvaluationOptions& options);

}  // namespace megabyte
