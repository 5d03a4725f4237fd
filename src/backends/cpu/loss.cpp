// Cross entropy and its gradient in one pass over the logits.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/loss.cpp"
#include <cmath>

#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread should have

// The loss of one row in nats; d, when given, receives scale * (softmax - one hot). `e` holds one
// row of exponentials.
template <class T>
HWY_INLINE double LossRow(const float* logits, int64_t vocab, int64_t target, float scale, float* e,
                          T* d) {
  V most = set(logits[0]);
  for_lanes(vocab, [&](int64_t i, auto lanes) HWY_ATTR {
    const V x = load(logits + i, lanes);
    if constexpr (std::is_same_v<decltype(lanes), Whole>)
      most = hn::Max(most, x);
    else
      most =
          hn::Max(most, hn::IfThenElse(hn::FirstN(F(), static_cast<size_t>(lanes.count)), x, most));
  });
  const float top = max_of(most);
  const V peak = set(top);
  V total = zero();
  for_lanes(vocab, [&](int64_t i, auto lanes) HWY_ATTR {
    const V x = keep(exp(hn::Sub(load(logits + i, lanes), peak)), lanes);
    total = hn::Add(total, x);
    store(x, e + i, lanes);
  });
  const float sum = sum_of(total);
  if (d != nullptr) {
    const V factor = set(scale / sum);
    for_lanes(vocab, [&](int64_t i, auto lanes)
                         HWY_ATTR { store(hn::Mul(load(e + i, lanes), factor), d + i, lanes); });
    d[target] = static_cast<T>((e[target] / sum - 1.0f) * scale);
  }
  return std::log(static_cast<double>(sum)) + (static_cast<double>(top) - logits[target]);
}

void CrossEntropy(Threads& threads, const LossShape& shape, const Tensor& logits,
                  const Tensor& targets, const Tensor& losses, const Tensor& dlogits,
                  const Tensor& total) {
  const float* x = logits.as<float>();
  const uint16_t* y = targets.as<uint16_t>();
  float* out = losses ? losses.as<float>() : nullptr;
  const int64_t vocab = shape.vocab;
  with_type(dlogits ? dlogits.dtype : DType::f32, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    T* d = dlogits ? dlogits.as<T>() : nullptr;
    // A thread's sum comes first in its scratch, one row of exponentials after it.
    const int64_t bytes = 64 + vocab * static_cast<int64_t>(sizeof(float));
    const int pieces = threads.parallel(
        shape.rows * shape.length, std::max<int64_t>(1, kGrain / vocab),
        [&](int64_t begin, int64_t end, int t) HWY_ATTR {
          char* mine = threads.scratch<char>(t, bytes);
          float* e = reinterpret_cast<float*>(mine + 64);
          double sum = 0;
          for (int64_t r = begin; r < end; ++r) {
            T* row = d != nullptr ? d + r * vocab : nullptr;
            double loss = 0;
            if (r % shape.length < shape.valid)
              loss = LossRow(x + r * vocab, vocab, y[r], static_cast<float>(shape.scale), e, row);
            else if (row != nullptr)
              std::fill(row, row + vocab, T{});
            if (out != nullptr) out[r] = static_cast<float>(loss);
            sum += loss;
          }
          *reinterpret_cast<double*>(mine) = sum;
        });
    for (int t = 0; t < pieces; ++t)
      *total.as<double>() += *reinterpret_cast<double*>(threads.scratch<char>(t, bytes));
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(CrossEntropy);

void cross_entropy(Threads& threads, const LossShape& shape, const Tensor& logits,
                   const Tensor& targets, const Tensor& losses, const Tensor& dlogits,
                   const Tensor& total) {
  HWY_DYNAMIC_DISPATCH(CrossEntropy)(threads, shape, logits, targets, losses, dlogits, total);
}

}  // namespace megabyte::cpu
#endif
