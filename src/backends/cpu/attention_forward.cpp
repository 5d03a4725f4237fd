// Causal attention, forward: keys in blocks, the softmax updated from block to block (Milakov and
// Gimelshein 2018), so that memory is linear in the length.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/attention_forward.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

// Block of queries of one head. Scores (keys, queries) become weights exp(s - top), where `hidden`
// is the first query minus the first key: query i sees key j when j <= i + hidden. What the queries
// have so far, their totals and `sums`, is scaled where a maximum grew.
HWY_INLINE void SoftmaxBlock(float* scores, int64_t keys, int64_t queries, int64_t hidden,
                             float* tops, float* totals, float* sums, int64_t width) {
  const V lowest = set(-std::numeric_limits<float>::infinity());
  float factors[kQueryBlock];
  bool grew = false;
  for (int64_t i = 0; i < queries; i += kLanes) {
    const V before = load(tops + i);
    V top = before;
    for (int64_t j = 0; j < keys; ++j) {
      V s = load(scores + j * kQueryBlock + i);
      if (j > hidden + i) {
        s = hn::IfThenElse(lanes_before(j - hidden, i), lowest, s);
        store(s, scores + j * kQueryBlock + i);
      }
      top = hn::Max(top, s);
    }
    const V factor = exp(hn::Sub(before, top));  // 0 at first, when `before` is -infinity
    V total = hn::Mul(load(totals + i), factor);
    for (int64_t j = 0; j < keys; ++j) {
      const V e = exp(hn::Sub(load(scores + j * kQueryBlock + i), top));
      total = hn::Add(total, e);
      store(e, scores + j * kQueryBlock + i);
    }
    grew = grew || !hn::AllTrue(F(), hn::Eq(before, top));
    store(factor, factors + i);
    store(top, tops + i);
    store(total, totals + i);
  }
  if (!grew) return;
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t c = 0; c < width; c += kLanes)
      store(hn::Mul(load(sums + i * width + c), set(factors[i])), sums + i * width + c);
}

HWY_INLINE void LinearBlock(float* scores, int64_t keys, int64_t queries, int64_t hidden,
                            float* totals) {
  for (int64_t i = 0; i < queries; i += kLanes) {
    V total = load(totals + i);
    for (int64_t j = 0; j < keys; ++j) {
      V s = load(scores + j * kQueryBlock + i);
      if (j > hidden + i) {
        s = hn::IfThenZeroElse(lanes_before(j - hidden, i), s);
        store(s, scores + j * kQueryBlock + i);
      }
      total = hn::Add(total, s);
    }
    store(total, totals + i);
  }
}

// One head of one sequence. `memory` holds keys and values of all its window as floats.
template <class T>
void ForwardHead(const AttentionShape& shape, const T* qkv, int64_t sequence, int64_t head, T* out,
                 float* stats, float* memory) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  const Window window = window_of(shape, sequence);
  const T* q = qkv + (window.first_row + window.first_query) * row + head * dim;
  const T* k = qkv + window.first_row * row + shape.dim() + head * dim;
  const T* v = k + shape.dim();
  float* keys = memory;
  float* values = keys + window.keys * width;
  float* queries = values + window.keys * width;
  float* columns = queries + kQueryBlock * width;
  float* sums = columns + kQueryBlock * dim;
  float* scores = sums + kQueryBlock * width;
  float* tops = scores + kQueryBlock * kKeyBlock;
  float* totals = tops + kQueryBlock;

  const auto same = [](V x) HWY_ATTR { return x; };
  const auto mapped = [](V x) HWY_ATTR { return feature(x); };
  const V scale = set(softmax_scale(shape));
  load_rows(v, row, window.keys, dim, values, width, same);
  if (shape.linear)
    load_rows(k, row, window.keys, dim, keys, width, mapped);
  else
    load_rows(k, row, window.keys, dim, keys, width, same);

  for (int64_t first = 0; first < shape.queries; first += kQueryBlock) {
    const int64_t count = std::min(kQueryBlock, shape.queries - first), lanes = padded(count);
    const int64_t visible = window.first_query + first + count;  // keys that the last query sees
    if (shape.linear)
      load_rows(q + first * row, row, count, dim, queries, width, mapped);
    else
      load_rows(q + first * row, row, count, dim, queries, width,
                [=](V x) HWY_ATTR { return hn::Mul(x, scale); });
    transpose_rows(queries, width, count, dim, columns);
    std::fill(tops, tops + lanes, -std::numeric_limits<float>::infinity());
    std::fill(totals, totals + lanes, 0.0f);
    for (int64_t key = 0; key < visible; key += kKeyBlock) {
      const int64_t block = std::min(kKeyBlock, visible - key);
      const int64_t hidden = window.first_query + first - key;
      multiply({keys + key * width, width, 1}, block, columns, kQueryBlock, dim, scores,
               kQueryBlock, lanes, false);
      if (shape.linear)
        LinearBlock(scores, block, lanes, hidden, totals);
      else
        SoftmaxBlock(scores, block, lanes, hidden, tops, totals, sums, key > 0 ? width : 0);
      multiply({scores, 1, kQueryBlock}, count, values + key * width, width, block, sums, width,
               width, key > 0);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = sequence * shape.queries + first + i;
      const V inverse = set(1.0f / totals[i]);
      for_lanes(dim, [&](int64_t j, auto part) HWY_ATTR {
        store(hn::Mul(load(sums + i * width + j), inverse),
              out + query * shape.dim() + head * dim + j, part);
      });
    }
    if (stats == nullptr) continue;
    float* stat = stats + (sequence * shape.heads + head) * shape.queries + first;
    for_lanes(count, [&](int64_t i, auto part) HWY_ATTR {
      const V total = load(totals + i);
      store(shape.linear ? total : hn::Add(load(tops + i), hn::Log(F(), total)), stat + i, part);
    });
  }
}

void AttentionForward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                      const Tensor& out, const Tensor& stats) {
  const int64_t width = padded(shape.head_dim);
  const int64_t memory =
      most_keys(shape) * 2 * width + kQueryBlock * (2 * width + shape.head_dim + kKeyBlock + 2);
  const int64_t work = shape.queries * most_keys(shape) * shape.head_dim;
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    T* y = out.as<T>();
    float* lse = stats ? stats.as<float>() : nullptr;
    threads.parallel(shape.sequences * shape.heads, std::max<int64_t>(1, 16384 / work),
                     [&](int64_t begin, int64_t end, int t) HWY_ATTR {
                       float* mine = threads.scratch<float>(t, memory);
                       for (int64_t i = begin; i < end; ++i) {
                         if (i + 1 < end)
                           prefetch_head(shape, in, (i + 1) / shape.heads, (i + 1) % shape.heads);
                         ForwardHead(shape, in, i / shape.heads, i % shape.heads, y, lse, mine);
                       }
                     });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(AttentionForward);

void attention_forward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                       const Tensor& out, const Tensor& stats) {
  HWY_DYNAMIC_DISPATCH(AttentionForward)(threads, shape, qkv, out, stats);
}

}  // namespace megabyte::cpu
#endif
