#include "backends/exact/packed_weights.h"

namespace megabyte::exact {

PackedMatrix PackedWeights::get(const Tensor& w) {
  const int64_t N = w.shape[0], K = w.shape[1];
  const Packed& packed = cache_.get(w, [&] {
    QuantisedRows quantised = quantise_rows(w.as<float>(), N, K);
    Packed made{std::vector<std::byte>(kernels_.packed_bytes(N, K)), std::move(quantised.scales)};
    made.scales.resize(static_cast<size_t>(padded(N)));
    kernels_.pack(quantised.q.data(), N, K, made.data.data());
    return made;
  });
  return {packed.data.data(), packed.scales.data(), N, K};
}

}  // namespace megabyte::exact
