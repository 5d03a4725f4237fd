// Reading and writing elements whatever their type: the reference backend computes every sum in
// double.
#pragma once

#include "base/tensor.h"

namespace megabyte::reference {

inline double load(const Tensor& x, int64_t i) {
  switch (x.dtype) {
    case DType::f64:
      return static_cast<const double*>(x.data)[i];
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(x.data)[i]);
    case DType::bf16:
      return static_cast<double>(static_cast<float>(static_cast<const bf16*>(x.data)[i]));
    case DType::u16:
      return static_cast<const uint16_t*>(x.data)[i];
    case DType::u8:
      return static_cast<const uint8_t*>(x.data)[i];
  }
  return 0;
}

inline void store(const Tensor& x, int64_t i, double value) {
  switch (x.dtype) {
    case DType::f64:
      static_cast<double*>(x.data)[i] = value;
      break;
    case DType::f32:
      static_cast<float*>(x.data)[i] = static_cast<float>(value);
      break;
    case DType::bf16:
      static_cast<bf16*>(x.data)[i] = bf16(static_cast<float>(value));
      break;
    case DType::u16:
      static_cast<uint16_t*>(x.data)[i] = static_cast<uint16_t>(value);
      break;
    case DType::u8:
      static_cast<uint8_t*>(x.data)[i] = static_cast<uint8_t>(value);
      break;
  }
}

inline void add_to(const Tensor& x, int64_t i, double value) { store(x, i, load(x, i) + value); }

inline int64_t token(const Tensor& tokens, int64_t i) { return tokens.as<uint16_t>()[i]; }

}  // namespace megabyte::reference
