// Linear attention without a cross window (Katharopoulos et al. 2020): a running state of head_dim
// x head_dim numbers takes the place of all scores. With f the feature map, S = sum f(k) v^T and z
// = sum f(k) over what a position sees, its output is S^T f(q) / (z . f(q)).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_attention.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

// state[i] += a[i] * b, rows of `width` floats.
HWY_INLINE void AddOuter(const float* a, const float* b, int64_t dim, int64_t width, float* state) {
  for (int64_t i = 0; i < dim; ++i)
    for (int64_t j = 0; j < width; j += kLanes)
      store(hn::MulAdd(set(a[i]), load(b + j), load(state + i * width + j)), state + i * width + j);
}

HWY_INLINE float Dot(const float* a, const float* b, int64_t width) {
  V total = zero();
  for (int64_t j = 0; j < width; j += kLanes) total = hn::MulAdd(load(a + j), load(b + j), total);
  return sum_of(total);
}

// out += factor * x
HWY_INLINE void AddScaled(float factor, const float* x, int64_t width, float* out) {
  for (int64_t j = 0; j < width; j += kLanes)
    store(hn::MulAdd(set(factor), load(x + j), load(out + j)), out + j);
}

template <class T>
HWY_INLINE void LoadFeatures(const T* in, int64_t dim, int64_t width, float* out) {
  load_rows(in, dim, 1, dim, out, width, [](V x) HWY_ATTR { return feature(x); });
}
template <class T>
HWY_INLINE void LoadSame(const T* in, int64_t dim, int64_t width, float* out) {
  load_rows(in, dim, 1, dim, out, width, [](V x) HWY_ATTR { return x; });
}

template <class T>
void ForwardHead(const AttentionShape& shape, const T* qkv, int64_t sequence, int64_t head, T* out,
                 float* stats, float* memory) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  const int64_t silent = shape.length - shape.queries;
  float* state = memory;
  float* z = state + dim * width;
  float* key = z + width;
  float* value = key + width;
  float* query = value + width;
  float* sums = query + width;
  std::fill(state, state + (dim + 1) * width, 0.0f);
  for (int64_t t = 0; t < shape.length; ++t) {
    const T* q = qkv + (sequence * shape.length + t) * row + head * dim;
    LoadFeatures(q + shape.dim(), dim, width, key);
    LoadSame(q + 2 * shape.dim(), dim, width, value);
    AddOuter(key, value, dim, width, state);
    AddScaled(1.0f, key, width, z);
    if (t < silent) continue;
    LoadFeatures(q, dim, width, query);
    const float divisor = Dot(query, z, width);
    multiply({query, width, 1}, 1, state, width, dim, sums, width, width, false);
    const V inverse = set(1.0f / divisor);
    T* y = out + (sequence * shape.queries + t - silent) * shape.dim() + head * dim;
    for_lanes(dim, [&](int64_t j, auto lanes)
                       HWY_ATTR { store(hn::Mul(load(sums + j), inverse), y + j, lanes); });
    if (stats != nullptr)
      stats[(sequence * shape.heads + head) * shape.queries + t - silent] = divisor;
  }
}

// With g = dout / divisor and c = -(dout . out) / divisor of each query: d f(q) = S g + c z going
// forward; and going backward, with R = sum f(q) g^T and r = sum c f(q) over the queries that see a
// key, d f(k) = R v + r and dv = R^T f(k).
template <class T>
void BackwardHead(const AttentionShape& shape, const T* qkv, const T* out, const float* stats,
                  const T* dout, T* dqkv, int64_t sequence, int64_t head, float* memory) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  const int64_t silent = shape.length - shape.queries;
  float* state = memory;                // R, rows by feature
  float* turned = state + dim * width;  // S, then R, rows by value
  float* z = turned + dim * width;      // z, then r
  float* key = z + width;
  float* value = key + width;
  float* query = value + width;
  float* g = query + width;
  float* d = g + width;

  const auto load_gradient = [&](int64_t t) HWY_ATTR {
    const int64_t asked = sequence * shape.queries + t - silent;
    const int64_t at = asked * shape.dim() + head * dim;
    const float stat = stats[(sequence * shape.heads + head) * shape.queries + t - silent];
    LoadSame(dout + at, dim, width, g);
    LoadSame(out + at, dim, width, d);
    const float c = -Dot(g, d, width) / stat;
    for (int64_t j = 0; j < width; j += kLanes)
      store(hn::Mul(load(g + j), set(1.0f / stat)), g + j);
    return c;
  };
  const auto store_mapped = [&](const T* x, T* dx) HWY_ATTR {
    for_lanes(dim, [&](int64_t j, auto lanes) HWY_ATTR {
      store(hn::Mul(load(d + j), feature_derivative(load(x + j, lanes))), dx + j, lanes);
    });
  };

  std::fill(turned, turned + (dim + 1) * width, 0.0f);
  for (int64_t t = 0; t < shape.length; ++t) {
    const int64_t at = (sequence * shape.length + t) * row + head * dim;
    const T* q = qkv + at;
    LoadFeatures(q + shape.dim(), dim, width, key);
    LoadSame(q + 2 * shape.dim(), dim, width, value);
    AddOuter(value, key, dim, width, turned);
    AddScaled(1.0f, key, width, z);
    if (t < silent) {
      std::fill(dqkv + at, dqkv + at + dim, T{});
      continue;
    }
    const float c = load_gradient(t);
    multiply({g, width, 1}, 1, turned, width, dim, d, width, width, false);
    AddScaled(c, z, width, d);
    store_mapped(q, dqkv + at);
  }

  std::fill(state, state + (2 * dim + 1) * width, 0.0f);
  for (int64_t t = shape.length - 1; t >= 0; --t) {
    const int64_t at = (sequence * shape.length + t) * row + head * dim;
    const T* q = qkv + at;
    if (t >= silent) {
      LoadFeatures(q, dim, width, query);
      const float c = load_gradient(t);
      AddOuter(query, g, dim, width, state);
      AddOuter(g, query, dim, width, turned);
      AddScaled(c, query, width, z);
    }
    LoadFeatures(q + shape.dim(), dim, width, key);
    LoadSame(q + 2 * shape.dim(), dim, width, value);
    multiply({value, width, 1}, 1, turned, width, dim, d, width, width, false);
    AddScaled(1.0f, z, width, d);
    store_mapped(q + shape.dim(), dqkv + at + shape.dim());
    multiply({key, width, 1}, 1, state, width, dim, d, width, width, false);
    T* dv = dqkv + at + 2 * shape.dim();
    for_lanes(dim, [&](int64_t j, auto lanes) HWY_ATTR { store(load(d + j), dv + j, lanes); });
  }
}

void LinearAttentionForward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                            const Tensor& out, const Tensor& stats) {
  const int64_t width = padded(shape.head_dim), memory = (shape.head_dim + 5) * width;
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    T* y = out.as<T>();
    float* sums = stats ? stats.as<float>() : nullptr;
    threads.parallel(shape.sequences * shape.heads, 1,
                     [&](int64_t begin, int64_t end, int t) HWY_ATTR {
                       float* mine = threads.scratch<float>(t, memory);
                       for (int64_t i = begin; i < end; ++i)
                         ForwardHead(shape, in, i / shape.heads, i % shape.heads, y, sums, mine);
                     });
  });
}

void LinearAttentionBackward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                             const Tensor& out, const Tensor& stats, const Tensor& dout,
                             const Tensor& dqkv) {
  const int64_t width = padded(shape.head_dim), memory = (2 * shape.head_dim + 6) * width;
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    const T* y = out.as<T>();
    const T* dy = dout.as<T>();
    T* dx = dqkv.as<T>();
    const float* sums = stats.as<float>();
    threads.parallel(
        shape.sequences * shape.heads, 1, [&](int64_t begin, int64_t end, int t) HWY_ATTR {
          float* mine = threads.scratch<float>(t, memory);
          for (int64_t i = begin; i < end; ++i)
            BackwardHead(shape, in, y, sums, dy, dx, i / shape.heads, i % shape.heads, mine);
        });
  });
}

void LinearAttentionDecode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                           const Tensor& state, const Tensor& out) {
  const int64_t dim = shape.head_dim, width = padded(dim);
  float* states = state.as<float>();
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    T* y = out.as<T>();
    threads.parallel(shape.batch * shape.heads, std::max<int64_t>(1, 65536 / (dim * dim)),
                     [&](int64_t begin, int64_t end, int t) HWY_ATTR {
                       float* key = threads.scratch<float>(t, 3 * width);
                       float* query = key + width;
                       float* sums = query + width;
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t b = i / shape.heads, h = i % shape.heads;
                         const T* q = in + b * 3 * shape.dim() + h * dim;
                         const T* v = q + 2 * shape.dim();
                         float* s = states + i * (dim + 1) * dim;
                         float* z = s + dim * dim;
                         LoadFeatures(q, dim, width, query);
                         LoadFeatures(q + shape.dim(), dim, width, key);
                         std::fill(sums, sums + width, 0.0f);
                         float divisor = 0;
                         for (int64_t r = 0; r < dim; ++r) {
                           z[r] += key[r];
                           divisor += query[r] * z[r];
                           for_lanes(dim, [&](int64_t j, auto lanes) HWY_ATTR {
                             const V next = hn::MulAdd(set(key[r]), load(v + j, lanes),
                                                       load(s + r * dim + j, lanes));
                             store(next, s + r * dim + j, lanes);
                             store(hn::MulAdd(set(query[r]), next, load(sums + j)), sums + j);
                           });
                         }
                         const V inverse = set(1.0f / divisor);
                         for_lanes(dim, [&](int64_t j, auto lanes) HWY_ATTR {
                           store(hn::Mul(load(sums + j), inverse), y + i * dim + j, lanes);
                         });
                       }
                     });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(LinearAttentionForward);
HWY_EXPORT(LinearAttentionBackward);
HWY_EXPORT(LinearAttentionDecode);

void linear_attention_forward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                              const Tensor& out, const Tensor& stats) {
  HWY_DYNAMIC_DISPATCH(LinearAttentionForward)(threads, shape, qkv, out, stats);
}
void linear_attention_backward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                               const Tensor& out, const Tensor& stats, const Tensor& dout,
                               const Tensor& dqkv) {
  HWY_DYNAMIC_DISPATCH(LinearAttentionBackward)(threads, shape, qkv, out, stats, dout, dqkv);
}
void linear_attention_decode(Threads& threads, const DecodeShape& shape, const Tensor& qkv,
                             const Tensor& state, const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(LinearAttentionDecode)(threads, shape, qkv, state, out);
}

}  // namespace megabyte::cpu
#endif
