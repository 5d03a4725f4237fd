// Decoding: attention of one new position over cached keys, and products of a few rows, which are
// bound by reading the weights once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/decode.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 65536;  // multiplications a thread should have

// One head of one sample; keys and values (capacity, dim).
template <class T>
void DecodeHead(const DecodeShape& shape, const T* q, T* keys, T* values, T* out, float* query,
                float* scores) {
  const int64_t dim = shape.head_dim, visible = shape.position - shape.first + 1;
  const int64_t slot = shape.position % shape.capacity;
  std::copy(q + shape.dim(), q + shape.dim() + dim, keys + slot * dim);
  std::copy(q + 2 * shape.dim(), q + 2 * shape.dim() + dim, values + slot * dim);

  const bool linear = shape.linear;
  const V scale = set(1.0f / std::sqrt(static_cast<float>(dim)));
  load_rows(q, dim, 1, dim, query, padded(dim),
            [=](V x) HWY_ATTR { return linear ? feature(x) : hn::Mul(x, scale); });
  float top = -std::numeric_limits<float>::infinity();
  int64_t at = shape.first % shape.capacity;
  for (int64_t p = 0; p < visible; ++p, at = at + 1 == shape.capacity ? 0 : at + 1) {
    V total = zero();
    for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
      const V key = load(keys + at * dim + i, lanes);
      total = hn::MulAdd(load(query + i), linear ? feature(key) : key, total);
    });
    scores[p] = sum_of(total);
    top = std::max(top, scores[p]);
  }
  V total = zero();
  for_lanes(visible, [&](int64_t p, auto lanes) HWY_ATTR {
    const V score = load(scores + p, lanes);
    const V e = linear ? score : keep(exp(hn::Sub(score, set(top))), lanes);
    total = hn::Add(total, e);
    store(e, scores + p, lanes);
  });
  const V inverse = set(1.0f / sum_of(total));
  for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
    V sum = zero();
    int64_t s = shape.first % shape.capacity;
    for (int64_t p = 0; p < visible; ++p, s = s + 1 == shape.capacity ? 0 : s + 1)
      sum = hn::MulAdd(set(scores[p]), load(values + s * dim + i, lanes), sum);
    store(hn::Mul(sum, inverse), out + i, lanes);
  });
}

void AttentionDecode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                     const Tensor& keys, const Tensor& values, const Tensor& out) {
  const int64_t dim = shape.head_dim, visible = shape.position - shape.first + 1;
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    T* k = keys.as<T>();
    T* v = values.as<T>();
    T* y = out.as<T>();
    threads.parallel(shape.batch * shape.heads, std::max<int64_t>(1, kGrain / (visible * dim)),
                     [&](int64_t begin, int64_t end, int t) HWY_ATTR {
                       float* query = threads.scratch<float>(t, padded(dim) + padded(visible));
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t b = i / shape.heads, h = i % shape.heads;
                         DecodeHead(shape, in + b * 3 * shape.dim() + h * dim,
                                    k + i * shape.capacity * dim, v + i * shape.capacity * dim,
                                    y + i * dim, query, query + padded(dim));
                       }
                     });
  });
}

// sums[m][n] = x[m] . w[n] for kRows rows of x (floats, padded with zeros) and rows n of w.
template <int kRows, int kOuts, class T>
HWY_INLINE void DotTile(const float* x, int64_t width, const T* w, int64_t depth, float* sums,
                        int64_t sums_stride) {
  V totals[kRows][kOuts];
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kOuts; ++n) totals[m][n] = zero();
  for_lanes(depth, [&](int64_t k, auto lanes) HWY_ATTR {
    V row[kOuts];
    for (int n = 0; n < kOuts; ++n) row[n] = load(w + n * depth + k, lanes);
    for (int m = 0; m < kRows; ++m) {
      const V a = load(x + m * width + k);
      for (int n = 0; n < kOuts; ++n) totals[m][n] = hn::MulAdd(a, row[n], totals[m][n]);
    }
  });
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kOuts; ++n) sums[m * sums_stride + n] = sum_of(totals[m][n]);
}

template <int kOuts, class T>
HWY_INLINE void DotRows(const float* x, int64_t width, int64_t rows, const T* w, int64_t depth,
                        float* sums, int64_t sums_stride) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4)
    DotTile<4, kOuts>(x + m * width, width, w, depth, sums + m * sums_stride, sums_stride);
  for (; m < rows; ++m)
    DotTile<1, kOuts>(x + m * width, width, w, depth, sums + m * sums_stride, sums_stride);
}

void FewRowLinear(Threads& threads, const Tensor& x, const Tensor& w, const Tensor& bias,
                  Activation activation, const Tensor& pre, const Tensor& y) {
  const int64_t rows = x.shape[0], depth = x.shape[1], outs = w.shape[0], width = padded(depth);
  const float* shift = bias ? bias.as<float>() : nullptr;
  with_type(x.dtype, [&](auto type) HWY_ATTR {
    with_type(y.dtype, [&](auto type_out) HWY_ATTR {
      using T = decltype(type);
      using U = decltype(type_out);
      const T* in = x.as<T>();
      const T* weights = w.as<T>();
      T* saved = pre ? pre.as<T>() : nullptr;
      U* out = y.as<U>();
      threads.parallel(
          outs, std::max<int64_t>(1, kGrain / (rows * depth)),
          [&](int64_t begin, int64_t end, int t) HWY_ATTR {
            const int64_t count = end - begin;
            float* a = threads.scratch<float>(t, rows * (width + count));
            float* sums = a + rows * width;
            load_rows(in, depth, rows, depth, a, width, [](V v) HWY_ATTR { return v; });
            int64_t n = 0;
            for (; n + 4 <= count; n += 4)
              DotRows<4>(a, width, rows, weights + (begin + n) * depth, depth, sums + n, count);
            for (; n < count; ++n)
              DotRows<1>(a, width, rows, weights + (begin + n) * depth, depth, sums + n, count);
            for (int64_t m = 0; m < rows; ++m)
              for_lanes(count, [&](int64_t i, auto lanes) HWY_ATTR {
                V v = load(sums + m * count + i, lanes);
                if (shift != nullptr) v = hn::Add(v, load(shift + begin + i, lanes));
                if (saved != nullptr) store(v, saved + m * outs + begin + i, lanes);
                if (activation == Activation::gelu) v = gelu(v);
                if (activation == Activation::relu) v = hn::Max(v, zero());
                store(v, out + m * outs + begin + i, lanes);
              });
          });
    });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(AttentionDecode);
HWY_EXPORT(FewRowLinear);

void attention_decode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                      const Tensor& keys, const Tensor& values, const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(AttentionDecode)(threads, shape, qkv, keys, values, out);
}
void few_row_linear(Threads& threads, const Tensor& x, const Tensor& w, const Tensor& bias,
                    Activation activation, const Tensor& pre, const Tensor& y) {
  HWY_DYNAMIC_DISPATCH(FewRowLinear)(threads, x, w, bias, activation, pre, y);
}

}  // namespace megabyte::cpu
#endif
