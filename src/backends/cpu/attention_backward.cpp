// Causal attention, backward: weights are computed again from the scores and their log-sum-exp,
// block by block (Dao et al. 2022), and gradients of keys and values are gathered in float.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/attention_backward.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

// Float memory of one thread: a window's keys and values, their gradients, and one block of
// queries.
struct BackwardMemory {
  float *keys, *values, *dkeys, *dvalues;
  float *queries, *query_columns, *douts, *dout_columns, *dqueries, *scores, *dscores;

  static int64_t size(int64_t keys, int64_t dim, int64_t width) {
    return keys * 4 * width + kQueryBlock * (3 * width + 2 * dim + 2 * kKeyBlock);
  }
  BackwardMemory(float* at, int64_t rows, int64_t dim, int64_t width) {
    const auto take = [&at](int64_t count) { return std::exchange(at, at + count); };
    keys = take(rows * width);
    values = take(rows * width);
    dkeys = take(rows * width);
    dvalues = take(rows * width);
    queries = take(kQueryBlock * width);
    douts = take(kQueryBlock * width);
    dqueries = take(kQueryBlock * width);
    query_columns = take(kQueryBlock * dim);
    dout_columns = take(kQueryBlock * dim);
    scores = take(kQueryBlock * kKeyBlock);
    dscores = take(kQueryBlock * kKeyBlock);
  }
};

// Scores (keys, queries) become weights, d(weights) become d(scores): p (dp - delta), delta being
// dout . out. Query i sees key j when j <= i + hidden.
HWY_INLINE void BackwardBlock(float* scores, float* dscores, int64_t keys, int64_t queries,
                              int64_t hidden, const float* stats, const float* deltas,
                              bool linear) {
  for (int64_t i = 0; i < queries; i += kLanes) {
    const V stat = load(stats + i), delta = load(deltas + i);
    const V inverse = hn::Div(set(1.0f), stat);
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * kQueryBlock + i;
      float* dat = dscores + j * kQueryBlock + i;
      const V s = load(at), dp = hn::Sub(load(dat), delta);
      V p = linear ? hn::Mul(s, inverse) : exp(hn::Sub(s, stat));
      V d = hn::Mul(dp, linear ? inverse : p);
      if (j > hidden + i) {
        const auto unseen = lanes_before(j - hidden, i);
        p = hn::IfThenZeroElse(unseen, p);
        d = hn::IfThenZeroElse(unseen, d);
      }
      store(p, at);
      store(d, dat);
    }
  }
}

// Writes finished gradients of keys (times the slope of the feature map when linear) and values.
template <class T>
void WriteKeys(const AttentionShape& shape, const T* k, const BackwardMemory& memory, int64_t rows,
               T* dk) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  for (int64_t r = 0; r < rows; ++r)
    for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
      V g = load(memory.dkeys + r * width + i);
      if (shape.linear) g = hn::Mul(g, feature_derivative(load(k + r * row + i, lanes)));
      store(g, dk + r * row + i, lanes);
      store(load(memory.dvalues + r * width + i), dk + r * row + shape.dim() + i, lanes);
    });
}

// One head of one sequence: writes d(queries), adds to memory's d(keys) and d(values).
template <class T>
void BackwardSequence(const AttentionShape& shape, const T* qkv, const T* out, const float* stats,
                      const T* dout, T* dqkv, int64_t sequence, int64_t head,
                      const BackwardMemory& memory) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  const Window window = window_of(shape, sequence);
  const T* k = qkv + window.first_row * row + shape.dim() + head * dim;
  const T* v = k + shape.dim();
  const auto same = [](V x) HWY_ATTR { return x; };
  const auto mapped = [](V x) HWY_ATTR { return feature(x); };
  const V scale = set(shape.linear ? 1.0f : softmax_scale(shape));

  load_rows(v, row, window.keys, dim, memory.values, width, same);
  if (shape.linear)
    load_rows(k, row, window.keys, dim, memory.keys, width, mapped);
  else
    load_rows(k, row, window.keys, dim, memory.keys, width, same);

  const int64_t asking = (window.first_row + window.first_query) * row + head * dim;
  for (int64_t first = 0; first < shape.queries; first += kQueryBlock) {
    const int64_t count = std::min(kQueryBlock, shape.queries - first), lanes = padded(count);
    const int64_t visible = window.first_query + first + count;  // keys that the last query sees
    const T* q = qkv + asking + first * row;
    const int64_t at = (sequence * shape.queries + first) * shape.dim() + head * dim;
    if (shape.linear)
      load_rows(q, row, count, dim, memory.queries, width, mapped);
    else
      load_rows(q, row, count, dim, memory.queries, width,
                [=](V x) HWY_ATTR { return hn::Mul(x, scale); });
    load_rows(dout + at, shape.dim(), count, dim, memory.douts, width, same);
    transpose_rows(memory.queries, width, count, dim, memory.query_columns);
    transpose_rows(memory.douts, width, count, dim, memory.dout_columns);
    float deltas[kQueryBlock], stat[kQueryBlock];
    std::copy_n(stats + (sequence * shape.heads + head) * shape.queries + first, count, stat);
    for (int64_t i = 0; i < count; ++i) {
      V total = zero();
      for_lanes(dim, [&](int64_t j, auto part) HWY_ATTR {
        total = hn::MulAdd(load(memory.douts + i * width + j),
                           load(out + at + i * shape.dim() + j, part), total);
      });
      deltas[i] = sum_of(total);
    }
    for (int64_t key = 0; key < visible; key += kKeyBlock) {
      const int64_t block = std::min(kKeyBlock, visible - key);
      multiply({memory.keys + key * width, width, 1}, block, memory.query_columns, kQueryBlock, dim,
               memory.scores, kQueryBlock, lanes, false);
      multiply({memory.values + key * width, width, 1}, block, memory.dout_columns, kQueryBlock,
               dim, memory.dscores, kQueryBlock, lanes, false);
      BackwardBlock(memory.scores, memory.dscores, block, lanes, window.first_query + first - key,
                    stat, deltas, shape.linear);
      multiply({memory.scores, kQueryBlock, 1}, block, memory.douts, width, count,
               memory.dvalues + key * width, width, width, true);
      multiply({memory.dscores, kQueryBlock, 1}, block, memory.queries, width, count,
               memory.dkeys + key * width, width, width, true);
      multiply({memory.dscores, 1, kQueryBlock}, count, memory.keys + key * width, width, block,
               memory.dqueries, width, width, key > 0);
    }
    for (int64_t i = 0; i < count; ++i)
      for_lanes(dim, [&](int64_t j, auto part) HWY_ATTR {
        V g = hn::Mul(load(memory.dqueries + i * width + j), scale);
        if (shape.linear) g = hn::Mul(g, feature_derivative(load(q + i * row + j, part)));
        store(g, dqkv + asking + (first + i) * row + j, part);
      });
  }
}

// One head of `sequences` neighbouring sequences whose windows may overlap. Gradients of keys wait
// in memory until the last window that holds them is done.
template <class T>
void BackwardHead(const AttentionShape& shape, const T* qkv, const T* out, const float* stats,
                  const T* dout, T* dqkv, int64_t first, int64_t sequences, int64_t head,
                  const BackwardMemory& memory) {
  const int64_t dim = shape.head_dim, width = padded(dim), row = 3 * shape.dim();
  int64_t held = 0;  // rows of the window that older sequences added to
  for (int64_t s = first; s < first + sequences; ++s) {
    const Window window = window_of(shape, s);
    if (s + 1 < first + sequences) prefetch_head(shape, qkv, s + 1, head);
    std::fill(memory.dkeys + held * width, memory.dkeys + window.keys * width, 0.0f);
    std::fill(memory.dvalues + held * width, memory.dvalues + window.keys * width, 0.0f);
    BackwardSequence(shape, qkv, out, stats, dout, dqkv, s, head, memory);
    for (int64_t i = 0; i < shape.length - shape.queries; ++i) {  // positions that did not ask
      T* dq = dqkv + (s * shape.length + i) * row + head * dim;
      std::fill(dq, dq + dim, T{});
    }
    held = s + 1 < first + sequences ? window_of(shape, s + 1).keys - shape.length : 0;
    const int64_t done = window.keys - held;
    const int64_t at = window.first_row * row + shape.dim() + head * dim;
    WriteKeys(shape, qkv + at, memory, done, dqkv + at);
    std::copy(memory.dkeys + done * width, memory.dkeys + window.keys * width, memory.dkeys);
    std::copy(memory.dvalues + done * width, memory.dvalues + window.keys * width, memory.dvalues);
  }
}

void AttentionBackward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                       const Tensor& out, const Tensor& stats, const Tensor& dout,
                       const Tensor& dqkv) {
  const int64_t dim = shape.head_dim, width = padded(dim), keys = most_keys(shape);
  const int64_t group = shape.cross > 0 ? shape.row_sequences : 1;  // sequences of one task
  const int64_t work = group * shape.queries * keys * dim;
  with_type(qkv.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* in = qkv.as<T>();
    const T* y = out.as<T>();
    const T* dy = dout.as<T>();
    T* dx = dqkv.as<T>();
    const float* lse = stats.as<float>();
    threads.parallel(
        shape.sequences / group * shape.heads, std::max<int64_t>(1, 8192 / work),
        [&](int64_t begin, int64_t end, int t) HWY_ATTR {
          const BackwardMemory memory(
              threads.scratch<float>(t, BackwardMemory::size(keys, dim, width)), keys, dim, width);
          for (int64_t i = begin; i < end; ++i) {
            const int64_t next = (i + 1) / shape.heads, next_head = (i + 1) % shape.heads;
            if (group == 1 && i + 1 < end) {
              prefetch_head(shape, in, next, next_head);
              const int64_t at = next * shape.queries * shape.dim() + next_head * dim;
              prefetch_rows(dy + at, shape.dim(), shape.queries, dim);
              prefetch_rows(y + at, shape.dim(), shape.queries, dim);
            }
            BackwardHead(shape, in, y, lse, dy, dx, i / shape.heads * group, group, i % shape.heads,
                         memory);
          }
        });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(AttentionBackward);

void attention_backward(Threads& threads, const AttentionShape& shape, const Tensor& qkv,
                        const Tensor& out, const Tensor& stats, const Tensor& dout,
                        const Tensor& dqkv) {
  HWY_DYNAMIC_DISPATCH(AttentionBackward)(threads, shape, qkv, out, stats, dout, dqkv);
}

}  // namespace megabyte::cpu
#endif
