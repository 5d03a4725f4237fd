// The matrices of models in 8 bits, made when a product first reads one and kept until its memory
// is written or released. Safe to use from several threads.
#pragma once

#include <map>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "backends/exact/kernels.h"
#include "base/tensor.h"

namespace megabyte::exact {

class PackedWeights {
 public:
  explicit PackedWeights(const Kernels& kernels) : kernels_(kernels) {}

  // w (N, K) f32. Valid until the memory is forgotten.
  PackedMatrix get(const Tensor& w);
  // What was made of matrices that reach into [begin, begin + bytes).
  void forget(const void* begin, size_t bytes);

 private:
  struct Entry {
    size_t bytes;  // of the matrix in float
    std::vector<std::byte> data;
    std::vector<float> scales;
    PackedMatrix matrix;
  };
  const Kernels& kernels_;
  std::shared_mutex mutex_;
  std::map<const std::byte*, std::unique_ptr<Entry>> entries_;  // by where the matrix begins
};

}  // namespace megabyte::exact
