// Rotary positions (Su et al. 2021): pairs (i, i + head_dim / 2) turn by position-dependent angles.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/rotary.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread should have

void Rotate(Threads& threads, const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
            const float* cosines, const float* sines, bool inverse) {
  const int64_t width = 3 * heads * head_dim, half = head_dim / 2;
  const V sign = set(inverse ? -1.0f : 1.0f);
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    auto* data = qkv.as<decltype(type)>();
    threads.parallel(
        qkv.size() / width, std::max<int64_t>(1, kGrain / width),
        [&](int64_t begin, int64_t end, int) HWY_ATTR {
          for (int64_t r = begin; r < end; ++r) {
            const float* cosine = cosines + r % length * half;
            const float* sine = sines + r % length * half;
            for (int64_t h = 0; h < 2 * heads; ++h) {  // the heads of q, then those of k
              auto* low = data + r * width + h * head_dim;
              auto* high = low + half;
              for_lanes(half, [&](int64_t i, auto lanes) HWY_ATTR {
                const V c = load(cosine + i, lanes), s = hn::Mul(load(sine + i, lanes), sign);
                const V a = load(low + i, lanes), b = load(high + i, lanes);
                store(hn::NegMulAdd(b, s, hn::Mul(a, c)), low + i, lanes);
                store(hn::MulAdd(a, s, hn::Mul(b, c)), high + i, lanes);
              });
            }
          }
        });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(Rotate);

void rotate(Threads& threads, const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
            const float* cosines, const float* sines, bool inverse) {
  HWY_DYNAMIC_DISPATCH(Rotate)(threads, qkv, heads, head_dim, length, cosines, sines, inverse);
}

}  // namespace megabyte::cpu
#endif
