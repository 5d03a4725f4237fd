// AdamW and the norm of the gradients: one pass over flat memory each.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/optimizer.cpp"
#include <cmath>

#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 32768;  // elements a thread should have

// Squares are summed in float within a block, in double beyond.
void SumOfSquares(Threads& threads, const Tensor& x, const Tensor& total) {
  constexpr int64_t kBlock = 256;
  with_type(x.dtype, [&](auto type) HWY_ATTR {
    const auto* in = x.as<decltype(type)>();
    const int pieces =
        threads.parallel(x.size(), kGrain, [&](int64_t begin, int64_t end, int t) HWY_ATTR {
          double sum = 0;
          for (int64_t at = begin; at < end; at += kBlock) {
            V squares = zero();
            for_lanes(std::min(kBlock, end - at), [&](int64_t i, auto lanes) HWY_ATTR {
              const V v = load(in + at + i, lanes);
              squares = hn::MulAdd(v, v, squares);
            });
            sum += static_cast<double>(sum_of(squares));
          }
          *threads.scratch<double>(t, 1) = sum;
        });
    for (int t = 0; t < pieces; ++t) *total.as<double>() += *threads.scratch<double>(t, 1);
  });
}

template <class T>
void Step(Threads& threads, const AdamwStep& step, const Tensor& value, T* copy, const Tensor& grad,
          const Tensor& m, const Tensor& v, double norm_sq) {
  float* values = value.as<float>();
  const float* grads = grad.as<float>();
  float* firsts = m.as<float>();
  float* seconds = v.as<float>();
  const double norm = std::sqrt(norm_sq);
  const double clip = step.clip > 0 && norm > step.clip ? step.clip / norm : 1.0;
  const double correct1 = 1.0 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correct2 = 1.0 - std::pow(step.beta2, static_cast<double>(step.step));
  const V scale = set(static_cast<float>(clip));
  const V beta1 = set(static_cast<float>(step.beta1));
  const V beta2 = set(static_cast<float>(step.beta2));
  const V rest1 = set(static_cast<float>(1.0 - step.beta1));
  const V rest2 = set(static_cast<float>(1.0 - step.beta2));
  const V rate = set(static_cast<float>(step.lr / correct1));
  const V root = set(static_cast<float>(1.0 / std::sqrt(correct2)));
  const V eps = set(static_cast<float>(step.eps));
  const V decay = set(static_cast<float>(1.0 - step.lr * step.decay));
  threads.parallel(value.size(), kGrain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for_lanes(end - begin, [&](int64_t at, auto lanes) HWY_ATTR {
      const int64_t i = begin + at;
      const V g = hn::Mul(load(grads + i, lanes), scale);
      const V first = hn::MulAdd(beta1, load(firsts + i, lanes), hn::Mul(rest1, g));
      const V second = hn::MulAdd(beta2, load(seconds + i, lanes), hn::Mul(rest2, hn::Mul(g, g)));
      store(first, firsts + i, lanes);
      store(second, seconds + i, lanes);
      const V divisor = hn::MulAdd(hn::Sqrt(second), root, eps);
      const V change = hn::Div(hn::Mul(rate, first), divisor);
      const V next = hn::MulSub(load(values + i, lanes), decay, change);
      store(next, values + i, lanes);
      if (copy != nullptr) store(next, copy + i, lanes);
    });
  });
}

void Adamw(Threads& threads, const AdamwStep& step, const Tensor& value, const Tensor& copy,
           const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& norm_sq) {
  const double norm = *norm_sq.as<double>();
  if (!std::isfinite(norm)) return;
  with_type(copy ? copy.dtype : DType::f32, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    Step(threads, step, value, copy ? copy.as<T>() : nullptr, grad, m, v, norm);
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(SumOfSquares);
HWY_EXPORT(Adamw);

void sum_of_squares(Threads& threads, const Tensor& x, const Tensor& total) {
  HWY_DYNAMIC_DISPATCH(SumOfSquares)(threads, x, total);
}
void adamw(Threads& threads, const AdamwStep& step, const Tensor& value, const Tensor& copy,
           const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& norm_sq) {
  HWY_DYNAMIC_DISPATCH(Adamw)(threads, step, value, copy, grad, m, v, norm_sq);
}

}  // namespace megabyte::cpu
#endif
