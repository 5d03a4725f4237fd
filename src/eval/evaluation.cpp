#include "eval/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "base/error.h"

namespace megabyte {

double Evaluation::word_perplexity() const {
  return words > 0 ? std::exp(total.nats / static_cast<double>(words))
                   : std::numeric_limits<double>::quiet_NaN();
}

Evaluation evaluate(Hierarchy& model, const ByteDataset& data, const ByteRange& range,
                    const EvaluationOptions& options) {
  // The bytes of a document that lie in the range; an end of its own comes after them.
  const auto part_of = [&](const ByteDataset::Document& document) {
    const uint64_t end = document.begin + document.bytes;
    const uint64_t from = std::clamp(range.begin, document.begin, end);
    return ByteRange{from, std::max(from, std::min(range.end, end))};
  };
  int64_t bytes = 0;
  for (const ByteDataset::Document& document : data.documents())
    bytes += static_cast<int64_t>(part_of(document).size());
  if (options.limit > 0) bytes = std::min(bytes, options.limit);
  constexpr int64_t kBytesAtOnce = 16384;
  const int64_t batch = options.batch > 0
                            ? options.batch
                            : std::max<int64_t>(1, kBytesAtOnce / model.config().context());

  const auto start = std::chrono::steady_clock::now();
  const auto spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  Scorer scorer(model, options.method, batch, options.kept);
  Evaluation result;
  result.ends = !options.piece && ends_documents(model.config().vocab_size);
  std::optional<MappedFile> file;
  std::optional<size_t> open;
  for (const ByteDataset::Document& document : data.documents()) {
    const auto left = static_cast<uint64_t>(bytes - result.total.bytes);
    if (left == 0) break;
    ByteRange part = part_of(document);
    if (part.size() == 0) continue;
    part.end = std::min(part.end, part.begin + left);
    const std::string name = data.files()[document.file].path.string();
    if (open != document.file) {
      file.reset();
      file.emplace(name);
      open = document.file;
      result.files.push_back({name, {}});
    }
    if (file->bytes().size() < document.from + document.bytes)
      fail("{} was shortened while it was in use", name);
    const std::span text(reinterpret_cast<const uint8_t*>(file->bytes().data()) + document.from +
                             (part.begin - document.begin),
                         part.size());
    const uint64_t piece = options.piece ? options.piece(text.size()) : text.size();
    for (uint64_t from = 0; from < text.size(); from += piece) {
      const Score score = scorer.score(
          name, text.subspan(from, std::min(piece, text.size() - from)),
          [&](const Score& so_far) {
            if (!options.on_progress) return;
            Score done = result.total;
            done += so_far;
            options.on_progress(done, bytes, spent());
          },
          !options.piece && part.end == document.begin + document.bytes);
      result.files.back().score += score;
      result.total += score;
    }
    ++result.documents;
    result.words += count_words(text);
  }
  result.seconds = spent();
  return result;
}

}  // namespace megabyte
