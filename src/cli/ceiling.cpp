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
  double best = 0;  // seconds of one product; the first warms up
  const Clock::time_point start = Clock::now();
  for (int run = 0;
       run < 3 || std::chrono::duration<double>(Clock::now() - start).count() < seconds; ++run) {
    const Clock::time_point before = Clock::now();
    backend.linear_forward(x, w, {}, Activation::none, {}, y);
    backend.synchronize();
    const double spent = std::chrono::duration<double>(Clock::now() - before).count();
    best = run < 2 ? spent : std::min(best, spent);
  }
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / best;
}

}  // namespace megabyte::cli
