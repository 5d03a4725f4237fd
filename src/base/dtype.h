// Element types. Precision is a run-time choice: no template parameter above the backends.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace megabyte {

enum class DType : uint8_t { f64, f32, bf16, u16, u8, i8 };

size_t size_of(DType dtype);
std::string_view name_of(DType dtype);         // "f32"
DType dtype_from_name(std::string_view name);  // Error for an unknown name

// bfloat16 as storage; arithmetic is done in float.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float x) : bits(round_bits(x)) {}
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }

 private:
  // Round to nearest even; a NaN stays a (quiet) NaN.
  static uint16_t round_bits(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(bf16) == 2);

template <class T>
inline constexpr DType dtype_of = [] {
  if constexpr (std::is_same_v<T, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<T, uint16_t>)
    return DType::u16;
  else if constexpr (std::is_same_v<T, uint8_t>)
    return DType::u8;
  else {
    static_assert(std::is_same_v<T, int8_t>);
    return DType::i8;
  }
}();

}  // namespace megabyte
