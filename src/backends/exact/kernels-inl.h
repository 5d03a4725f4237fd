// The kernels, over the sixteen lanes of vector.h. The file that includes this has chosen an
// instruction set by its compiler's options, and defines the table's name.
#pragma once

#include "backends/exact/kernels.h"
#include "backends/exact/products-inl.h"

namespace megabyte::exact {
namespace {

// How much of a vector an access touches; what remains of one counts as zeros.
struct Whole {};
MEGABYTE_INLINE V load(const float* p, Whole) { return load(p); }
MEGABYTE_INLINE void store(V v, float* p, Whole) { store(v, p); }

// f(i, lanes) for every vector of [0, n).
template <class Body>
MEGABYTE_INLINE void for_lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, n - i);
}

constexpr float kRounder = 0x1.8p23f;  // x + this is x rounded to a whole number, in the low bits

MEGABYTE_INLINE V exp(V x) {
  x = smaller(larger(x, set(-86.0f)), set(88.0f));
  const V t = fma(x, set(0x1.715476p+0f), set(kRounder));  // log2(e)
  const V n = sub(t, set(kRounder));
  V r = nfma(n, set(0x1.62e430p-1f), x);  // ln(2) in two parts
  r = nfma(n, set(-0x1.05c610p-29f), r);
  V p = set(0x1.6a2318p-10f);
  p = fma(p, r, set(0x1.123a8ep-7f));
  p = fma(p, r, set(0x1.5558f6p-5f));
  p = fma(p, r, set(0x1.555490p-3f));
  p = fma(p, r, set(0x1.fffffcp-2f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return floats(iadd(bits(p), shift_left_23(bits(t))));
}

// x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
MEGABYTE_INLINE V gelu(V x) {
  const V u2 = mul(x, fma(mul(x, x), set(0x1.2444f2p-4f), set(0x1.988454p+0f)));
  const V e = exp(sub(set(0.0f), u2));
  return div(x, add(set(1.0f), e));
}

// elu(x) + 1
MEGABYTE_INLINE V feature(V x) { return if_greater(x, set(0.0f), add(x, set(1.0f)), exp(x)); }

MEGABYTE_INLINE V activate(Act act, V x) {
  if (act == Act::gelu) return gelu(x);
  if (act == Act::relu) return larger(x, set(0.0f));
  return x;
}

// --- products

size_t linear_scratch(int64_t rows, int64_t K) {
  return static_cast<size_t>(rows) * (static_cast<size_t>(round_up(K, kLanes)) * sizeof(Q) + 16);
}

// q (round_up(K, 16)) of one row; its scale.
MEGABYTE_INLINE float quantise(const float* x, int64_t K, Q* q) {
  const I magnitude = iset(0x7fffffff);
  I top = iset(0);
  for_lanes(K, [&](int64_t i, auto lanes) {
    top = imax(top, iand(bits(load(x + i, lanes)), magnitude));
  });
  const int32_t largest = imax(top);
  float amax;
  __builtin_memcpy(&amax, &largest, sizeof(amax));
  // Rows of nothing, and those that hold an infinity or a NaN, count as zeros.
  const bool counts = largest >= 0x0d800000 && largest < 0x7f800000;  // from 2^-100 on
  const V shift = set(kRounder + kOffset);
  const V inverse = set(counts ? 127.0f / amax : 0.0f);
  for_lanes(K, [&](int64_t i, auto lanes) {
    const V v = counts ? load(x + i, lanes) : set(0.0f);
    store_quantised(bits(fma(v, inverse, shift)), q + i);
  });
  return counts ? amax / 127.0f : 0.0f;
}

template <int kRows>
MEGABYTE_INLINE void multiply(const LinearCall& call, int64_t row, const Q* q, const float* scales,
                              int64_t block) {
  constexpr int kVectors = kBlock / kLanes;
  const int64_t N = call.w.N, depth = round_up(call.w.K, kLanes);
  const size_t bytes = packed_bytes(kBlock, call.w.K);
  I sums[kRows][kVectors];
  tile<kRows>(q, depth, call.w.data + static_cast<size_t>(block) * bytes, depth, sums);
  for (int c = 0; c < kVectors; ++c) {
    const int64_t n = block * kBlock + c * kLanes;
    if (n >= N) break;
    const auto finish = [&](auto lanes) {
      const V scale = load(call.w.scales + n);
      const V bias = call.bias != nullptr ? load(call.bias + n, lanes) : set(0.0f);
      for (int r = 0; r < kRows; ++r) {
        const V y = fma(to_float(sums[r][c]), mul(set(scales[r]), scale), bias);
        store(activate(call.act, y), call.y + (row + r) * N + n, lanes);
      }
    };
    if (n + kLanes <= N)
      finish(Whole{});
    else
      finish(N - n);
  }
}

template <int kRows>
void multiply_rest(const LinearCall& call, int64_t rows, int64_t row, const Q* q,
                   const float* scales, int64_t block) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      multiply<kRows>(call, row, q, scales, block);
    else
      multiply_rest<kRows - 1>(call, rows, row, q, scales, block);
  }
}

void linear(const LinearCall& call, int64_t row, int64_t row_end, int64_t block, int64_t block_end,
            std::byte* scratch) {
  const int64_t rows = row_end - row, K = call.w.K, depth = round_up(K, kLanes);
  auto* scales = reinterpret_cast<float*>(scratch);
  auto* q = reinterpret_cast<Q*>(scratch + static_cast<size_t>(rows) * 16);
  for (int64_t r = 0; r < rows; ++r) scales[r] = quantise(call.x + (row + r) * K, K, q + r * depth);
  for (; block < block_end; ++block) {
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows)
      multiply<kTileRows>(call, row + r, q + r * depth, scales + r, block);
    if (r < rows)
      multiply_rest<kTileRows - 1>(call, rows - r, row + r, q + r * depth, scales + r, block);
  }
}

// --- the rest

void norm(const NormCall& call, int64_t row, int64_t row_end) {
  const int64_t D = call.dim;
  const auto width = static_cast<float>(D);
  for (; row < row_end; ++row) {
    const float* x = call.x + row * D;
    float* y = call.y + row * D;
    if (call.delta != nullptr) {
      const float* delta = call.delta + row * D;
      float* to = call.sum + row * D;
      for_lanes(D, [&](int64_t i, auto lanes) {
        store(add(load(x + i, lanes), load(delta + i, lanes)), to + i, lanes);
      });
      x = to;
    }
    V total = set(0.0f);
    for_lanes(D, [&](int64_t i, auto lanes) { total = add(total, load(x + i, lanes)); });
    const V mean = set(sum(total) / width);
    V squares = set(0.0f);
    for_lanes(D, [&](int64_t i, auto lanes) {
      store(sub(load(x + i, lanes), mean), y + i, lanes);
      const V d = load(y + i, lanes);
      squares = fma(d, d, squares);
    });
    const float variance = sum(squares) / width;
    const V scale = set(1.0f / __builtin_sqrtf(variance + call.eps));
    for_lanes(D, [&](int64_t i, auto lanes) {
      const V normed = mul(load(y + i, lanes), scale);
      store(fma(normed, load(call.weight + i, lanes), load(call.bias + i, lanes)), y + i, lanes);
    });
  }
}

// Where position p of those that a query sees lies among a head's rows.
class Ring {
 public:
  MEGABYTE_INLINE explicit Ring(const AttendCall& call)
      : slot_(call.slot), before_end_(call.capacity - call.slot), stride_(call.stride) {}
  MEGABYTE_INLINE int64_t stride() const { return stride_; }
  // Positions that lie one after the other from 0 on; those that follow them begin in row 0.
  MEGABYTE_INLINE int64_t before_end() const { return before_end_; }
  MEGABYTE_INLINE int64_t offset(int64_t p) const {
    return (p < before_end_ ? slot_ + p : p - before_end_) * stride_;
  }

 private:
  int64_t slot_, before_end_, stride_;
};

// A head's query, in kVectors vectors or (0) in however many there are; its product with a key.
template <int kVectors>
class Query {
 public:
  MEGABYTE_INLINE Query(const AttendCall&, const float* q) {
    for (int i = 0; i < kVectors; ++i) q_[i] = load(q + i * kLanes);
  }
  MEGABYTE_INLINE V dot(const float* key) const {
    V dot = set(0.0f);
    for (int i = 0; i < kVectors; ++i) dot = fma(q_[i], load(key + i * kLanes), dot);
    return dot;
  }

 private:
  V q_[kVectors];
};
template <>
class Query<0> {
 public:
  MEGABYTE_INLINE Query(const AttendCall& call, const float* q)
      : q_(q), dim_(call.dim), linear_(call.linear) {}
  MEGABYTE_INLINE V dot(const float* key) const {
    V dot = set(0.0f);
    for_lanes(dim_, [&](int64_t i, auto lanes) {
      const V k = load(key + i, lanes);
      dot = fma(load(q_ + i), linear_ ? feature(k) : k, dot);
    });
    return dot;
  }

 private:
  const float* q_;
  int64_t dim_;
  bool linear_;
};

// The scores of all keys of a head; the largest.
template <int kVectors>
MEGABYTE_INLINE float score(const AttendCall& call, const float* keys, const float* q,
                            float* scores) {
  const Query<kVectors> query(call, q);
  const Ring ring(call);
  const V lowest = set(-__builtin_inff());
  V top = lowest, dots[kLanes];
  int64_t p = 0;
  for (; p + kLanes <= call.visible; p += kLanes) {
    if (p + kLanes <= ring.before_end() || p >= ring.before_end()) {
      const float* key = keys + ring.offset(p);
      for (int i = 0; i < kLanes; ++i) dots[i] = query.dot(key + i * ring.stride());
    } else {
      for (int i = 0; i < kLanes; ++i) dots[i] = query.dot(keys + ring.offset(p + i));
    }
    const V each = sums(dots);
    store(each, scores + p);
    top = larger(each, top);
  }
  if (const int64_t rest = call.visible - p; rest > 0) {
    for (int i = 0; i < kLanes; ++i)
      dots[i] = i < rest ? query.dot(keys + ring.offset(p + i)) : set(0.0f);
    const V each = first_of(sums(dots), rest, lowest);
    store(each, scores + p);
    top = larger(each, top);
  }
  return maximum(top);
}

// What an answer needs of one of the heads.
struct Weighed {
  const float* values;
  const float* weights;
  float inverse;  // of the weights' sum
  float* out;
};

// out (kVectors vectors) = the sum of weights[p] * v_p, times `inverse`, of kHeads heads side by
// side: each is a chain of additions that waits for itself.
template <int kVectors, int kHeads>
MEGABYTE_INLINE void weigh(const AttendCall& call, const Weighed* heads) {
  V acc[kHeads][kVectors];
  for (auto& head : acc)
    for (V& a : head) a = set(0.0f);
  const Ring ring(call);
  for (int64_t p = 0; p < call.visible;) {
    const int64_t end = p < ring.before_end() && ring.before_end() < call.visible
                            ? ring.before_end()
                            : call.visible;
    for (int64_t at = ring.offset(p); p < end; ++p, at += ring.stride())
      for (int h = 0; h < kHeads; ++h) {
        const V weight = set(heads[h].weights[p]);
        for (int i = 0; i < kVectors; ++i)
          acc[h][i] = fma(weight, load(heads[h].values + at + i * kLanes), acc[h][i]);
      }
  }
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < kVectors; ++i)
      store(mul(acc[h][i], set(heads[h].inverse)), heads[h].out + i * kLanes);
}

void weigh_any(const AttendCall& call, const Weighed& head) {
  const int64_t d = call.dim;
  const auto from = [&](int64_t c) {
    return Weighed{head.values + c, head.weights, head.inverse, head.out + c};
  };
  int64_t c = 0;
  for (; c + 4 * kLanes <= d; c += 4 * kLanes) {
    const Weighed part = from(c);
    weigh<4, 1>(call, &part);
  }
  for (; c + kLanes <= d; c += kLanes) {
    const Weighed part = from(c);
    weigh<1, 1>(call, &part);
  }
  if (c == d) return;
  V acc = set(0.0f);
  const Ring ring(call);
  for (int64_t p = 0; p < call.visible; ++p)
    acc = fma(set(head.weights[p]), load(head.values + ring.offset(p) + c, d - c), acc);
  store(mul(acc, set(head.inverse)), head.out + c, d - c);
}

// Step by step for all heads, so that the processor finds work in one while it waits in another.
template <int kVectors>
void attend_heads(const AttendCall& call, float* scratch) {
  const int64_t d = call.dim, visible = call.visible;
  const int64_t query_size = round_up(d, kLanes), size = query_size + round_up(visible, kLanes);
  for (int64_t h = 0; h < call.heads; ++h) {
    float* query = scratch + h * size;  // with zeros up to whole vectors
    for_lanes(d, [&](int64_t i, auto lanes) {
      store(set(0.0f), query + i);
      const V q = load(call.q + h * d + i, lanes);
      store(call.linear ? feature(q) : mul(q, set(call.scale)), query + i, lanes);
    });
  }
  for (int64_t h = 0; h < call.heads; ++h) {
    float* query = scratch + h * size;
    float* weights = query + query_size;
    // The query has served, and the largest score takes its place.
    *query = score<kVectors>(call, call.k + h * call.head_stride, query, weights);
  }
  for (int64_t h = 0; h < call.heads; ++h) {
    float* query = scratch + h * size;
    float* weights = query + query_size;
    const V top = set(*query);
    V total = set(0.0f);
    for_lanes(visible, [&](int64_t at, auto lanes) {
      if (!call.linear) store(exp(sub(load(weights + at, lanes), top)), weights + at, lanes);
      total = add(total, load(weights + at, lanes));
    });
    *query = 1.0f / sum(total);
  }
  const auto head = [&](int64_t h) {
    const float* query = scratch + h * size;
    return Weighed{call.v + h * call.head_stride, query + query_size, *query, call.out + h * d};
  };
  int64_t h = 0;
  if constexpr (kVectors > 0) {
    constexpr int kSide = kSideBySide / kVectors;
    for (; h + kSide <= call.heads; h += kSide) {
      Weighed heads[kSide];
      for (int i = 0; i < kSide; ++i) heads[i] = head(h + i);
      weigh<kVectors, kSide>(call, heads);
    }
  }
  for (; h < call.heads; ++h) {
    const Weighed one = head(h);
    if constexpr (kVectors > 0)
      weigh<kVectors, 1>(call, &one);
    else
      weigh_any(call, one);
  }
}

void attend(const AttendCall& call, float* scratch) {
  if (call.dim == 2 * kLanes && !call.linear) return attend_heads<2>(call, scratch);
  if (call.dim == 4 * kLanes && !call.linear) return attend_heads<4>(call, scratch);
  attend_heads<0>(call, scratch);
}

void attend_running(const float* q, const float* k, const float* v, int64_t d, float* state,
                    float* out, float* scratch) {
  float* query = scratch;
  float* key = scratch + round_up(d, kLanes);
  float* sums = state + d * d;
  V total = set(0.0f);
  for_lanes(d, [&](int64_t i, auto lanes) {
    store(set(0.0f), query + i);
    store(feature(load(q + i, lanes)), query + i, lanes);
    store(feature(load(k + i, lanes)), key + i, lanes);
    store(add(load(sums + i, lanes), load(key + i, lanes)), sums + i, lanes);
    total = fma(load(query + i), load(sums + i, lanes), total);
  });
  const V divisor = set(sum(total));
  for_lanes(d, [&](int64_t c, auto lanes) {
    V acc = set(0.0f);
    const V value = load(v + c, lanes);
    for (int64_t i = 0; i < d; ++i) {
      float* at = state + i * d + c;
      const V product = fma(set(key[i]), value, load(at, lanes));
      store(product, at, lanes);
      acc = fma(set(query[i]), product, acc);
    }
    store(div(acc, divisor), out + c, lanes);
  });
}

void rotate(float* low, float* high, const float* cosines, const float* sines, int64_t half) {
  for_lanes(half, [&](int64_t i, auto lanes) {
    const V c = load(cosines + i, lanes), s = load(sines + i, lanes);
    const V a = load(low + i, lanes), b = load(high + i, lanes);
    store(nfma(b, s, mul(a, c)), low + i, lanes);
    store(fma(a, s, mul(b, c)), high + i, lanes);
  });
}

void exponentials(const float* x, int64_t count, float* y) {
  for_lanes(count, [&](int64_t i, auto lanes) { store(exp(load(x + i, lanes)), y + i, lanes); });
}

void row_frequencies(const float* logits, int64_t vocab, uint32_t* out) {
  float top = -__builtin_inff();
  int64_t i = 0;
  if (vocab >= kLanes) {
    V tops = set(top);
    for (; i + kLanes <= vocab; i += kLanes) {
      const V x = load(logits + i);
      tops = larger(x, tops);
    }
    top = maximum(tops);
  }
  for (; i < vocab; ++i) top = logits[i] > top ? logits[i] : top;
  for_lanes(vocab, [&](int64_t at, auto lanes) {
    const V e = exp(sub(load(logits + at, lanes), set(top)));
    const I f = iadd(truncate(mul(e, set(0x1p22f))), iset(1));
    istore(f, reinterpret_cast<int32_t*>(out + at), vocab - at < kLanes ? vocab - at : kLanes);
  });
}

}  // namespace
}  // namespace megabyte::exact

#define MEGABYTE_EXACT_KERNELS(NAME)                             \
  namespace megabyte::exact {                                    \
  const Kernels NAME##_kernels{.name = #NAME,                    \
                               .block = kBlock,                  \
                               .packed_bytes = packed_bytes,     \
                               .pack = pack,                     \
                               .linear_scratch = linear_scratch, \
                               .linear = linear,                 \
                               .norm = norm,                     \
                               .attend = attend,                 \
                               .attend_running = attend_running, \
                               .rotate = rotate,                 \
                               .exponentials = exponentials,     \
                               .frequencies = row_frequencies};  \
  }
