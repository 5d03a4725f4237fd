#include "support/models.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace megabyte::test {
namespace {

template <class T>
std::vector<T> copy_to_host(Backend& backend, const Tensor& t) {
  std::vector<T> host(static_cast<size_t>(t.size()));
  backend.to_host(host.data(), t);
  return host;
}

template <class T>
void perturb(Backend& backend, const Tensor& values, double noise) {
  std::vector<T> host = copy_to_host<T>(backend, values);
  Random random(8, 0);
  for (T& x : host) x += static_cast<T>(noise * random.normal());
  backend.from_host(values, host.data());
}

}  // namespace

std::vector<uint16_t> random_tokens(const Config& config, int64_t count, uint64_t seed) {
  Random random(seed, 0);
  std::vector<uint16_t> tokens(static_cast<size_t>(count));
  for (uint16_t& t : tokens)
    t = static_cast<uint16_t>(random.below(static_cast<uint64_t>(config.vocab_size)));
  return tokens;
}

WideModel::WideModel(const Config& config, std::unique_ptr<Backend> on, DType compute,
                     double deviation, double noise)
    : backend(std::move(on)), model(config, *backend, compute, false) {
  Parameters& parameters = model.parameters();
  parameters.initialize(7, deviation);
  if (parameters.values().dtype == DType::f64)
    perturb<double>(*backend, parameters.values(), noise);
  else
    perturb<float>(*backend, parameters.values(), noise);
  parameters.refresh_copies();
}

std::vector<double> full_logits(Hierarchy& model, const std::vector<uint16_t>& tokens,
                                int64_t batch) {
  model.prepare({.batch = batch, .length = static_cast<int64_t>(tokens.size()) / batch});
  model.load(tokens.data());
  model.forward();
  std::vector<double> out;
  model.copy_logits(out);
  return out;
}

std::vector<double> to_host(Backend& backend, const Tensor& values) {
  if (values.dtype == DType::f64) return copy_to_host<double>(backend, values);
  const std::vector<float> narrow = copy_to_host<float>(backend, values);
  return {narrow.begin(), narrow.end()};
}

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace megabyte::test
