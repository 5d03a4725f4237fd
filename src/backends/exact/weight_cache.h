// What products want of a model's matrices instead of its floats: made when one first reads them,
// and kept until the matrix's memory is written or released. Safe to use from several threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/error.h"
#include "base/tensor.h"
#include "ops/quantised_rows.h"

namespace megabyte::exact {

template <class Made>
class WeightCache {
 public:
  // Of w (N, K) f32; what make() gives where it is not known yet. Valid until it is forgotten.
  template <class Make>
  const Made& get(const Tensor& w, const Make& make) {
    const int64_t N = w.shape[0], K = w.shape[1];
    const auto* key = reinterpret_cast<const std::byte*>(w.as<float>());
    const auto is_that = [&](const Entry& entry) { return entry.N == N && entry.K == K; };
    {
      const std::shared_lock lock(mutex_);
      const auto found = entries_.find(key);
      if (found != entries_.end() && is_that(*found->second)) return found->second->made;
    }
    if (K > kMostQuantisedTerms)
      fail("exact numbers are of rows of up to {} terms, not {}: use --device cpu or cuda",
           kMostQuantisedTerms, K);
    auto entry = std::make_unique<Entry>(Entry{N, K, w.bytes(), make()});
    const std::unique_lock lock(mutex_);
    const auto [place, inserted] = entries_.try_emplace(key, std::move(entry));
    // Where somebody else was as quick that one is taken; but the same memory may have been a
    // matrix of another shape.
    if (!inserted && !is_that(*place->second)) place->second = std::move(entry);
    return place->second->made;
  }

  // What was made of matrices that reach into [begin, begin + bytes).
  void forget(const void* begin, size_t bytes) {
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

 private:
  struct Entry {
    int64_t N, K;
    size_t bytes;  // of the matrix in float
    Made made;
  };
  std::shared_mutex mutex_;
  std::map<const std::byte*, std::unique_ptr<Entry>> entries_;  // by where the matrix begins
};

}  // namespace megabyte::exact
