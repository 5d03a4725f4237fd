// Activations and their slopes in registers. T is the type that the result is rounded to.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "ops/ops.h"

namespace megabyte::cuda {

// The hardware's tangent is off by 2^-11, less than what bf16 rounds away.
template <class T>
__device__ float hyperbolic_tangent(float x) {
  if constexpr (sizeof(T) == 2) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  } else {
    return tanhf(x);
  }
}

inline constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
inline constexpr float kGeluCube = 0.044715f;

template <Activation kind, class T>
__device__ float activate(float x) {
  if constexpr (kind == Activation::relu)
    return x < 0 ? 0 : x;  // NaN stays
  else if constexpr (kind == Activation::gelu)
    return 0.5f * x * (1 + hyperbolic_tangent<T>(kGeluScale * (x + kGeluCube * x * x * x)));
  else
    return x;
}

// From the pre-activation (gelu) or from the activation itself (relu).
template <Activation kind, class T>
__device__ float slope(float x) {
  if constexpr (kind == Activation::relu) {
    return x > 0 ? 1 : 0;
  } else if constexpr (kind == Activation::gelu) {
    const float t = hyperbolic_tangent<T>(kGeluScale * (x + kGeluCube * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCube * x * x);
  } else {
    return 1;
  }
}

// Calls f with the activation as a compile-time constant.
template <class F>
void with_activation(Activation activation, F&& f) {
  if (activation == Activation::relu)
    f(std::integral_constant<Activation, Activation::relu>{});
  else if (activation == Activation::gelu)
    f(std::integral_constant<Activation, Activation::gelu>{});
  else
    f(std::integral_constant<Activation, Activation::none>{});
}

}  // namespace megabyte::cuda
