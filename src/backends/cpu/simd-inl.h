// What the kernels share, once per instruction set: vectors of float, loaded from and stored to
// float or bf16 memory, whole or in part. (Included again for every target; see Highway's
// foreach_target.h.)
#if defined(MEGABYTE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGABYTE_CPU_SIMD_INL_H_
#undef MEGABYTE_CPU_SIMD_INL_H_
#else
#define MEGABYTE_CPU_SIMD_INL_H_
#endif

#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;
using Words = hn::Rebind<uint16_t, F>;  // as many 16-bit lanes
using Bits = hn::RebindToUnsigned<F>;
inline constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(F()));

HWY_INLINE V zero() { return hn::Zero(F()); }
HWY_INLINE V set(float x) { return hn::Set(F(), x); }

HWY_INLINE V load(const float* p) { return hn::LoadU(F(), p); }
HWY_INLINE V load(const bf16* p) {
  const auto words = hn::LoadU(Words(), reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(F(), hn::ShiftLeft<16>(hn::PromoteTo(Bits(), words)));
}
HWY_INLINE void store(V v, float* p) { hn::StoreU(v, F(), p); }
HWY_INLINE void store(V v, bf16* p) {  // rounds to nearest even; a NaN stays one
  const Bits bits;
  const auto u = hn::BitCast(bits, v);
  const auto lowest = hn::And(hn::ShiftRight<16>(u), hn::Set(bits, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(hn::Set(bits, 0x7fff), lowest)));
  const auto quiet = hn::Or(hn::ShiftRight<16>(u), hn::Set(bits, 0x40));
  const auto nan = hn::RebindMask(bits, hn::IsNaN(v));
  const hn::RebindToSigned<Bits> whole;  // DemoteTo wants signed input; all values fit 16 bits
  const auto words = hn::DemoteTo(Words(), hn::BitCast(whole, hn::IfThenElse(nan, quiet, rounded)));
  hn::StoreU(words, Words(), reinterpret_cast<uint16_t*>(p));
}

// How much of a vector an access touches: the lane counts of for_lanes().
struct Whole {};
struct Part {
  int64_t count;
};

template <class T>
HWY_INLINE V load(const T* p, Whole) {
  return load(p);
}
template <class T>
HWY_INLINE void store(V v, T* p, Whole) {
  store(v, p);
}
template <class T>
HWY_INLINE V load(const T* p, Part part) {  // the other lanes are zero
  T lanes[kLanes] = {};
  for (int64_t i = 0; i < part.count; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T>
HWY_INLINE void store(V v, T* p, Part part) {
  T lanes[kLanes];
  store(v, lanes);
  for (int64_t i = 0; i < part.count; ++i) p[i] = lanes[i];
}

// Zeroes the lanes that do not count.
HWY_INLINE V keep(V v, Whole) { return v; }
HWY_INLINE V keep(V v, Part part) {
  return hn::IfThenElseZero(hn::FirstN(F(), static_cast<size_t>(part.count)), v);
}

// f(i, lanes) for every vector of [0, n); `lanes` is Part for what remains.
template <class Body>
HWY_INLINE void for_lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

HWY_INLINE float sum_of(V v) { return hn::GetLane(hn::SumOfLanes(F(), v)); }
HWY_INLINE float max_of(V v) { return hn::GetLane(hn::MaxOfLanes(F(), v)); }
HWY_INLINE V exp(V v) { return hn::Exp(F(), v); }

// Calls body with a value of the float type that `dtype` names.
template <class Body>
void with_type(DType dtype, const Body& body) {
  check(dtype == DType::f32 || dtype == DType::bf16, "the cpu backend computes in f32 and bf16");
  if (dtype == DType::f32)
    body(float{});
  else
    body(bf16{});
}

// gelu in its tanh form: x * s(2u), s the logistic function, u = sqrt(2/pi) (x + 0.044715 x^3).
HWY_INLINE V gelu_gate(V x) {
  const V u2 = hn::Mul(x, hn::MulAdd(hn::Mul(x, x), set(0.07135481627f), set(1.5957691216f)));
  const V e = exp(hn::Min(hn::Neg(u2), set(87.0f)));
  return hn::Div(set(1.0f), hn::Add(set(1.0f), e));
}
HWY_INLINE V gelu(V x) { return hn::Mul(x, gelu_gate(x)); }
HWY_INLINE V gelu_derivative(V x) {
  const V s = gelu_gate(x);
  const V slope = hn::MulAdd(hn::Mul(x, x), set(0.2140644488f), set(1.5957691216f));
  return hn::MulAdd(hn::Mul(hn::Mul(x, slope), s), hn::Sub(set(1.0f), s), s);
}

}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
