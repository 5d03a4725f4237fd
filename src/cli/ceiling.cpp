#include "cli/ceiling.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/random.h"

namespace megabyte::cli {

double product_ceiling(Backend& backend, DType type, int64_t n, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto elements = static_cast<size_t>(n * n);
  const size_t bytes = elements * size_of(type);
  const Buffer buffer = backend.allocate(3 * bytes),
               staging = backend.allocate(elements * sizeof(float));
  const auto matrix = [&](size_t i) { return Tensor{buffer.data() + i * bytes, type, {n, n}}; };
  const Tensor x = matrix(0), w = matrix(1), y = matrix(2);
  std::vector<float> values;
  for (uint64_t i = 0; values.size() < elements; ++i)
    for (const uint32_t word : philox(2, 0, i)) values.push_back(uniform(word) - 0.5f);
  values.resize(elements);
  const Tensor source{staging.data(), DType::f32, {n, n}};
  backend.from_host(source, values.data());
  backend.convert(source, x);
  backend.convert(source, w);
  // Seconds of a product, of `count` on which one waits together.
  const auto time = [&](int count) {
    const Clock::time_point before = Clock::now();
    for (int i = 0; i < count; ++i) backend.linear_forward(x, w, {}, Activation::none, {}, y);
    backend.synchronize();
    return std::chrono::duration<double>(Clock::now() - before).count() / count;
  };
  time(1);  // warms up
  // A device's products are over sooner than a wait for one of them.
  constexpr double kWorthWaiting = 2e-3;
  const int count = static_cast<int>(std::clamp(kWorthWaiting / time(1), 1.0, 100.0));
  double best = time(count);
  const Clock::time_point start = Clock::now();
  while (std::chrono::duration<double>(Clock::now() - start).count() < seconds)
    best = std::min(best, time(count));
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / best;
}

}  // namespace megabyte::cli
