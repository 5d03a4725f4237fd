#include "backends/exact/packed_weights.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "ops/quantised_rows.h"

namespace megabyte::exact {

PackedMatrix PackedWeights::get(const Tensor& w) {
  const int64_t N = w.shape[0], K = w.shape[1];
  const float* rows = w.as<float>();
  const auto* key = reinterpret_cast<const std::byte*>(rows);
  {
    const std::shared_lock lock(mutex_);
    const auto found = entries_.find(key);
    if (found != entries_.end() && found->second->matrix.N == N && found->second->matrix.K == K)
      return found->second->matrix;
  }
  if (K > kMostQuantisedTerms)
    fail("the exact backend multiplies rows of up to {} terms, not {}: use --device cpu or cuda",
         kMostQuantisedTerms, K);
  auto entry = std::make_unique<Entry>();
  QuantisedRows quantised = quantise_rows(rows, N, K);
  entry->bytes = w.bytes();
  entry->scales = std::move(quantised.scales);
  entry->scales.resize(static_cast<size_t>(padded(N)));
  entry->data.resize(kernels_.packed_bytes(N, K));
  kernels_.pack(quantised.q.data(), N, K, entry->data.data());
  entry->matrix = {entry->data.data(), entry->scales.data(), N, K};
  const PackedMatrix matrix = entry->matrix;
  const std::unique_lock lock(mutex_);
  const auto [place, inserted] = entries_.try_emplace(key, std::move(entry));
  // Somebody else was as quick; or the same memory was a matrix of another shape.
  if (inserted || (place->second->matrix.N == N && place->second->matrix.K == K))
    return place->second->matrix;
  place->second = std::move(entry);
  return matrix;
}

void PackedWeights::forget(const void* begin, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(begin);
  const auto reaches = [&](const auto& entry) {
    return entry.first < from + bytes && entry.first + entry.second->bytes > from;
  };
  {
    const std::shared_lock lock(mutex_);
    if (std::none_of(entries_.begin(), entries_.end(), reaches)) return;
  }
  const std::unique_lock lock(mutex_);
  std::erase_if(entries_, reaches);
}

}  // namespace megabyte::exact
