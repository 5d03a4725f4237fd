// Models with random weights for tests, and their logits on the host.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/hierarchy.h"

namespace megabyte::test {

std::vector<uint16_t> random_tokens(const Config& config, int64_t count, uint64_t seed);

// A model whose every tensor matters: wide weights, and biases and pads that are not zero. (Of a
// wide model they must be small, or its scores and activations are all at their ends.)
struct WideModel {
  std::unique_ptr<Backend> backend;
  Hierarchy model;

  WideModel(const Config& config, std::unique_ptr<Backend> on, DType compute,
            double deviation = 0.4, double noise = 0.1);
  WideModel(const Config& config, const std::string& device, DType compute, double deviation = 0.4,
            double noise = 0.1)
      : WideModel(config, make_backend(device, 2), compute, deviation, noise) {}
};

// Of the full forward over tokens (B, L): (B, predicted, V).
std::vector<double> full_logits(Hierarchy& model, const std::vector<uint16_t>& tokens,
                                int64_t batch);
std::vector<double> to_host(Backend& backend, const Tensor& values);  // f32 or f64

// |a - b| / |b| as vectors.
double relative_error(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace megabyte::test
