// The matrices of models in 8 bits, as the kernels want them.
#pragma once

#include <vector>

#include "backends/exact/kernels.h"
#include "backends/exact/weight_cache.h"

namespace megabyte::exact {

class PackedWeights {
 public:
  explicit PackedWeights(const Kernels& kernels) : kernels_(kernels) {}

  // w (N, K) f32. Valid until the memory is forgotten.
  PackedMatrix get(const Tensor& w);
  // What was made of matrices that reach into [begin, begin + bytes).
  void forget(const void* begin, size_t bytes) { cache_.forget(begin, bytes); }

 private:
  struct Packed {
    std::vector<std::byte> data;
    std::vector<float> scales;
  };
  const Kernels& kernels_;
  WeightCache<Packed> cache_;
};

}  // namespace megabyte::exact
