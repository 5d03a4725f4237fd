// The residual stream: adding a branch (with dropout), layer norm, and their gradients in one pass.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/norm.cpp"
#include "backends/cpu/kernels.h"
#include "base/random.h"
#include "hwy/foreach_target.h"
#include "ops/dropout.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread should have

// factors[i] = 0 for a dropped element, 1 / (1 - rate) for a kept one; the row starts at element
// `first` of the call.
void DropoutFactors(const Dropout& dropout, int64_t first, int64_t n, float* factors) {
  const float kept = 1.0f / (1.0f - dropout.rate);
  const uint64_t stream = stream_of(dropout);
  for (int64_t i = 0; i < n;) {
    const uint64_t at = static_cast<uint64_t>(first + i);
    const auto words = philox(dropout.seed, stream, at / 4);
    for (uint64_t j = at % 4; j < 4 && i < n; ++j, ++i)
      factors[i] = uniform(words[j]) < dropout.rate ? 0.0f : kept;
  }
}

template <class T>
HWY_INLINE void ForwardRow(const float* x, const T* delta, const float* factors,
                           const float* weight, const float* bias, float eps, float* sum, T* y,
                           T* xhat, int64_t dim, float* rstd_out) {
  V total = zero();
  if (delta != nullptr) {
    for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
      V d = load(delta + i, lanes);
      if (factors != nullptr) d = hn::Mul(d, load(factors + i, lanes));
      const V s = hn::Add(load(x + i, lanes), d);
      store(s, sum + i, lanes);
      total = hn::Add(total, s);
    });
  } else {
    for_lanes(dim,
              [&](int64_t i, auto lanes) HWY_ATTR { total = hn::Add(total, load(x + i, lanes)); });
  }
  const float* s = delta != nullptr ? sum : x;
  const float mean = sum_of(total) / static_cast<float>(dim);
  const V middle = set(mean);
  V squares = zero();
  for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
    const V c = keep(hn::Sub(load(s + i, lanes), middle), lanes);
    squares = hn::MulAdd(c, c, squares);
  });
  const float rstd = 1.0f / std::sqrt(sum_of(squares) / static_cast<float>(dim) + eps);
  const V scale = set(rstd);
  for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
    const V normed = hn::Mul(hn::Sub(load(s + i, lanes), middle), scale);
    store(hn::MulAdd(normed, load(weight + i, lanes), load(bias + i, lanes)), y + i, lanes);
    if (xhat != nullptr) store(normed, xhat + i, lanes);
  });
  *rstd_out = rstd;
}

void ResidualNormForward(Threads& threads, const Tensor& x, const Tensor& delta,
                         const Dropout& dropout, const Tensor& weight, const Tensor& bias,
                         double eps, const Tensor& sum, const Tensor& y, const Tensor& xhat,
                         const Tensor& rstd) {
  const int64_t rows = y.shape[0], dim = y.shape[1];
  const float* in = x.as<float>();
  const float* w = weight.as<float>();
  const float* b = bias.as<float>();
  float* out = delta ? sum.as<float>() : nullptr;
  float* rstds = rstd ? rstd.as<float>() : nullptr;
  with_type(y.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* branch = delta ? delta.as<T>() : nullptr;
    T* to = y.as<T>();
    T* normed = xhat ? xhat.as<T>() : nullptr;
    const bool drops = branch != nullptr && dropout.rate > 0;
    threads.parallel(rows, std::max<int64_t>(1, kGrain / dim),
                     [&](int64_t begin, int64_t end, int t) HWY_ATTR {
                       float* factors = drops ? threads.scratch<float>(t, dim) : nullptr;
                       for (int64_t r = begin; r < end; ++r) {
                         if (drops) DropoutFactors(dropout, r * dim, dim, factors);
                         float row_rstd;
                         ForwardRow(in + r * dim, branch != nullptr ? branch + r * dim : nullptr,
                                    factors, w, b, static_cast<float>(eps),
                                    out != nullptr ? out + r * dim : nullptr, to + r * dim,
                                    normed != nullptr ? normed + r * dim : nullptr, dim, &row_rstd);
                         if (rstds != nullptr) rstds[r] = row_rstd;
                       }
                     });
  });
}

// With g = dy * weight and n = xhat: d(sum) = rstd * (g - mean(g) - n * mean(g n)).
template <class T>
HWY_INLINE void BackwardRow(const T* dy, const T* xhat, float rstd, const float* weight,
                            const float* factors, bool accumulate, float* dsum, T* ddelta,
                            float* dweight, float* dbias, int64_t dim) {
  const V scale = set(rstd);
  V total_g = zero(), total_gn = zero();
  for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
    const V d = load(dy + i, lanes);
    const V n = load(xhat + i, lanes);
    const V dn = hn::Mul(d, n);
    const V w = load(weight + i, lanes);
    store(hn::Add(load(dweight + i, lanes), dn), dweight + i, lanes);
    store(hn::Add(load(dbias + i, lanes), d), dbias + i, lanes);
    total_g = hn::MulAdd(d, w, total_g);
    total_gn = hn::MulAdd(dn, w, total_gn);
  });
  const V mean_g = set(sum_of(total_g) / static_cast<float>(dim));
  const V mean_gn = set(sum_of(total_gn) / static_cast<float>(dim));
  for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
    const V n = load(xhat + i, lanes);
    const V g = hn::Mul(load(dy + i, lanes), load(weight + i, lanes));
    V d = hn::Mul(hn::NegMulAdd(n, mean_gn, hn::Sub(g, mean_g)), scale);
    if (accumulate) d = hn::Add(d, load(dsum + i, lanes));
    store(d, dsum + i, lanes);
    if (ddelta != nullptr)
      store(factors != nullptr ? hn::Mul(d, load(factors + i, lanes)) : d, ddelta + i, lanes);
  });
}

void ResidualNormBackward(Threads& threads, const Tensor& dy, const Tensor& xhat,
                          const Tensor& rstd, const Tensor& weight, const Dropout& dropout,
                          bool accumulate, const Tensor& dsum, const Tensor& ddelta,
                          const Tensor& dweight, const Tensor& dbias) {
  const int64_t rows = dy.shape[0], dim = dy.shape[1];
  const float* rstds = rstd.as<float>();
  const float* w = weight.as<float>();
  float* ds = dsum.as<float>();
  float* dw = dweight.as<float>();
  float* db = dbias.as<float>();
  with_type(dy.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* g = dy.as<T>();
    const T* normed = xhat.as<T>();
    T* dd = ddelta ? ddelta.as<T>() : nullptr;
    const bool drops = dd != nullptr && dropout.rate > 0;
    const int pieces = threads.parallel(
        rows, std::max<int64_t>(1, kGrain / dim), [&](int64_t begin, int64_t end, int t) HWY_ATTR {
          float* mine = threads.scratch<float>(t, 3 * dim);  // dweight, dbias, factors
          std::fill(mine, mine + 2 * dim, 0.0f);
          float* factors = drops ? mine + 2 * dim : nullptr;
          for (int64_t r = begin; r < end; ++r) {
            if (drops) DropoutFactors(dropout, r * dim, dim, factors);
            BackwardRow(g + r * dim, normed + r * dim, rstds[r], w, factors, accumulate,
                        ds + r * dim, dd != nullptr ? dd + r * dim : nullptr, mine, mine + dim,
                        dim);
          }
        });
    for (int t = 0; t < pieces; ++t) {
      const float* theirs = threads.scratch<float>(t, 3 * dim);
      for (int64_t i = 0; i < dim; ++i) {
        dw[i] += theirs[i];
        db[i] += theirs[dim + i];
      }
    }
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(ResidualNormForward);
HWY_EXPORT(ResidualNormBackward);

void residual_norm_forward(Threads& threads, const Tensor& x, const Tensor& delta,
                           const Dropout& dropout, const Tensor& weight, const Tensor& bias,
                           double eps, const Tensor& sum, const Tensor& y, const Tensor& xhat,
                           const Tensor& rstd) {
  HWY_DYNAMIC_DISPATCH(ResidualNormForward)
  (threads, x, delta, dropout, weight, bias, eps, sum, y, xhat, rstd);
}
void residual_norm_backward(Threads& threads, const Tensor& dy, const Tensor& xhat,
                            const Tensor& rstd, const Tensor& weight, const Dropout& dropout,
                            bool accumulate, const Tensor& dsum, const Tensor& ddelta,
                            const Tensor& dweight, const Tensor& dbias) {
  HWY_DYNAMIC_DISPATCH(ResidualNormBackward)
  (threads, dy, xhat, rstd, weight, dropout, accumulate, dsum, ddelta, dweight, dbias);
}

}  // namespace megabyte::cpu
#endif
