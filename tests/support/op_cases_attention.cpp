// Cases of rotary positions, attention and decoding.
#include <fmt/format.h>

#include <limits>

#include "support/op_case.h"

namespace megabyte::test {
namespace {

struct Turn {
  int64_t rows, heads, head_dim, length, first;
};

OpCase rotary_case(const Turn& r, bool inverse) {
  using enum Use;
  return {.name = fmt::format("rotary_m{}_h{}_d{}_n{}_first{}{}", r.rows, r.heads, r.head_dim,
                              r.length, r.first, inverse ? "_inverse" : ""),
          .arguments = {{"qkv", Role::compute, {r.rows, 3 * r.heads * r.head_dim}, changes}},
          .run = [r, inverse](Backend& b, const Tensors& t) {
            b.rotary(t["qkv"], r.heads, r.head_dim, r.length, r.first, inverse);
          }};
}

// Turning back is the gradient of turning.
OpCase rotary_backward_case(const Turn& r) {
  using enum Use;
  const Shape shape{r.rows, 3 * r.heads * r.head_dim};
  OpCase c = rotary_case(r, true);
  c.name = fmt::format("rotary_backward_m{}_h{}_d{}_n{}_first{}", r.rows, r.heads, r.head_dim,
                       r.length, r.first);
  c.arguments = {{"x", Role::compute, shape},
                 {"turned", Role::compute, shape, derived},
                 {"qkv", Role::compute, shape, changes}};
  c.forward = [r](Backend& b, const Tensors& t) {
    b.convert(t["x"], t["turned"]);
    b.rotary(t["turned"], r.heads, r.head_dim, r.length, r.first, false);
  };
  c.cotangents = {{"turned", "qkv"}};
  c.gradients = {{"x", "qkv"}};
  return c;
}

std::string attention_name(const AttentionShape& s, double scale) {
  std::string name = fmt::format("s{}_n{}_h{}_d{}", s.sequences, s.length, s.heads, s.head_dim);
  if (s.queries < s.length) name += fmt::format("_q{}", s.queries);
  if (s.row_sequences > 1) name += fmt::format("_row{}", s.row_sequences);
  if (s.cross > 0) name += fmt::format("_cross{}", s.cross);
  if (scale != 1) name += "_large";
  return name + (s.linear ? "_linear" : "");
}

OpCase attention_case(const AttentionShape& s, double scale, bool stats) {
  using enum Use;
  OpCase c;
  c.name = "attention_forward_" + attention_name(s, scale) + (stats ? "_stats" : "");
  c.arguments = {
      {"qkv", Role::compute, {s.sequences * s.length, 3 * s.dim()}, input, normal(scale)},
      {"out", Role::compute, {s.sequences * s.queries, s.dim()}, output}};
  if (stats)
    c.arguments.push_back({"stats", Role::master, {s.sequences * s.heads * s.queries}, output});
  c.run = [s](Backend& b, const Tensors& t) {
    b.attention_forward(s, t["qkv"], t["out"], t["stats"]);
  };
  return c;
}

OpCase attention_backward_case(const AttentionShape& s, double scale) {
  using enum Use;
  OpCase c = attention_case(s, scale, true);
  c.name = "attention_backward_" + attention_name(s, scale);
  c.forward = c.run;
  for (Argument& a : c.arguments)
    if (a.use == output) a.use = derived;
  c.arguments.push_back({"dout", Role::compute, {s.sequences * s.queries, s.dim()}});
  c.arguments.push_back({"dqkv", Role::compute, {s.sequences * s.length, 3 * s.dim()}, output});
  c.run = [s](Backend& b, const Tensors& t) {
    b.attention_backward(s, t["qkv"], t["out"], t["stats"], t["dout"], t["dqkv"]);
  };
  c.cotangents = {{"out", "dout"}};
  c.gradients = {{"qkv", "dqkv"}};
  return c;
}

}  // namespace

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> cases;
  for (const Turn& r : {Turn{1, 1, 2, 1, 0}, Turn{15, 2, 8, 5, 0}, Turn{7, 3, 34, 7, 1000},
                        Turn{40, 2, 64, 40, 0}, Turn{1, 4, 16, 1, 100000}}) {
    cases.push_back(rotary_case(r, false));
    cases.push_back(rotary_case(r, true));
    cases.push_back(rotary_backward_case(r));
  }
  const AttentionShape shapes[] = {
      // sequences, length, queries, heads, head_dim, row_sequences, cross
      {1, 1, 1, 1, 8},
      {2, 7, 7, 3, 5},
      {3, 16, 16, 2, 16},
      {50, 8, 8, 4, 12},
      {2, 33, 33, 2, 24},
      {1, 130, 130, 1, 32},
      {1, 40, 40, 1, 128},
      // Perceiver AR
      {2, 9, 4, 2, 8},
      {2, 40, 1, 1, 16},
      {1, 100, 37, 2, 16},
      // windows: within the patch before, all of it, several patches, more than the row
      {6, 4, 4, 2, 8, 3, 3},
      {6, 4, 4, 2, 8, 3, 4},
      {12, 4, 4, 2, 8, 6, 10},
      {6, 4, 4, 2, 8, 3, 100},
      {40, 8, 8, 2, 16, 20, 8},
      {12, 1, 1, 2, 8, 4, 3},
      {4, 5, 5, 1, 7, 1, 6},
      {2, 64, 64, 1, 32, 2, 64},
      {6, 4, 2, 2, 8, 3, 5},
      // what tensor cores take in tiles: patches, windows, long rows, each with a rest
      {9, 8, 8, 2, 64},
      {10, 8, 8, 1, 64, 5, 24},
      {3, 24, 24, 1, 128},
      {1, 200, 200, 1, 64},
      {1, 140, 140, 1, 128},
      {2, 150, 40, 1, 64},
      {3, 130, 130, 1, 64, 3, 70},
      {2, 150, 40, 1, 128},
      {2, 130, 130, 1, 128, 2, 70},
      // as long, but with gaps between the queries
      {3, 130, 40, 1, 64, 3, 70},
  };
  for (AttentionShape s : shapes)
    for (const bool linear : {false, true}) {
      s.linear = linear;
      cases.push_back(attention_case(s, 1, false));
      cases.push_back(attention_case(s, 1, true));
      cases.push_back(attention_backward_case(s, 1));
    }
  // Linear attention that goes by running states: chunks, segments of them, each with a rest.
  const AttentionShape by_states[] = {{2, 128, 128, 1, 64},
                                      {2, 200, 200, 2, 32},
                                      {1, 300, 300, 2, 64},
                                      {2, 165, 165, 1, 128},
                                      {1, 513, 513, 1, 32}};
  for (AttentionShape s : by_states) {
    s.linear = true;
    cases.push_back(attention_case(s, 1, false));
    cases.push_back(attention_case(s, 1, true));
    cases.push_back(attention_backward_case(s, 1));
  }
  // Scores beyond what an exponential holds in float; smaller ones for backward, which takes the
  // exponential of their difference to the log-sum-exp, both rounded to float.
  const AttentionShape large{4, 12, 12, 2, 16, 2, 5};
  cases.push_back(attention_case(large, 10, true));
  cases.push_back(attention_backward_case(large, 3));
  return cases;
}

std::vector<OpCase> decode_cases() {
  using enum Use;
  std::vector<OpCase> cases;
  const DecodeShape shapes[] = {
      // batch, heads, head_dim, capacity, position, first
      {1, 1, 4, 1, 0, 0},
      {2, 3, 8, 16, 5, 0},
      {1, 2, 20, 16, 15, 0},
      {2, 2, 16, 8, 13, 6},
      {3, 1, 5, 7, 100, 98},
      {1, 4, 64, 300, 299, 0},
      {4, 2, 32, 64, 90, 27},
      {1, 2, 128, 9, 9, 9},
      // enough keys to be dealt to several blocks, and for one block to take them in turns
      {1, 3, 128, 256, 255, 0},
      {20, 2, 24, 100, 131, 40},
      {2, 2, 5, 70, 69, 0},
      {1, 1, 256, 80, 79, 0},
      {66, 8, 8, 300, 299, 0}};
  for (DecodeShape s : shapes)
    for (const bool linear : {false, true}) {
      s.linear = linear;
      const Shape cache{s.batch, s.heads, s.capacity, s.head_dim};
      // What was never written may hold anything.
      const Fill visible = [s](Random& random, int64_t i) {
        const int64_t slot = i / s.head_dim % s.capacity;
        for (int64_t p = s.first; p < s.position; ++p)
          if (p % s.capacity == slot) return random.normal();
        return std::numeric_limits<double>::quiet_NaN();
      };
      cases.push_back({.name = fmt::format("attention_decode_b{}_h{}_d{}_c{}_p{}_first{}{}",
                                           s.batch, s.heads, s.head_dim, s.capacity, s.position,
                                           s.first, linear ? "_linear" : ""),
                       .arguments = {{"qkv", Role::compute, {s.batch, 3 * s.dim()}},
                                     {"keys", Role::compute, cache, changes, visible},
                                     {"values", Role::compute, cache, changes, visible},
                                     {"out", Role::compute, {s.batch, s.dim()}, output}},
                       .run = [s](Backend& b, const Tensors& t) {
                         b.attention_decode(s, t["qkv"], t["keys"], t["values"], t["out"]);
                       }});
    }
  const CacheShape caches[] = {// batch, heads, head_dim, capacity, length, first, last
                               {1, 1, 4, 8, 5, 0, 5},
                               {3, 2, 8, 16, 20, 4, 20},
                               {2, 3, 5, 7, 40, 30, 36},
                               {40, 4, 32, 64, 72, 8, 64},
                               {2, 2, 16, 9, 9, 3, 3}};
  for (const CacheShape& s : caches) {
    const Shape cache{s.batch, s.heads, s.capacity, s.head_dim};
    cases.push_back(
        {.name = fmt::format("cache_keys_b{}_h{}_d{}_c{}_l{}_from{}_to{}", s.batch, s.heads,
                             s.head_dim, s.capacity, s.length, s.first, s.last),
         .arguments = {{"qkv", Role::compute, {s.batch * s.length, 3 * s.dim()}},
                       {"keys", Role::compute, cache, changes},
                       {"values", Role::compute, cache, changes}},
         .run = [s](Backend& b, const Tensors& t) {
           b.cache_keys(s, t["qkv"], t["keys"], t["values"]);
         }});
  }
  for (const DecodeShape& s : {DecodeShape{1, 1, 1}, DecodeShape{2, 3, 5}, DecodeShape{1, 2, 64}})
    cases.push_back(
        {.name = fmt::format("linear_attention_decode_b{}_h{}_d{}", s.batch, s.heads, s.head_dim),
         .arguments = {{"qkv", Role::compute, {s.batch, 3 * s.dim()}},
                       {"state",
                        Role::master,
                        {s.batch, s.heads, s.head_dim + 1, s.head_dim},
                        changes,
                        between(0.1, 2)},
                       {"out", Role::compute, {s.batch, s.dim()}, output}},
         .run = [s](Backend& b, const Tensors& t) {
           b.linear_attention_decode(s, t["qkv"], t["state"], t["out"]);
         }});
  const SampleShape samples[] = {// batch, vocab, temperature, top_k, top_p
                                 {3, 256, 0, 0, 1},      {64, 256, 1, 0, 1},   {64, 257, 0.7, 5, 1},
                                 {64, 256, 1.3, 0, 0.8}, {64, 40, 1, 12, 0.5}, {16, 1, 1, 3, 0.5}};
  for (const SampleShape& s : samples)
    cases.push_back({.name = fmt::format("sample_b{}_v{}_temperature{}", s.batch, s.vocab,
                                         static_cast<int>(10 * s.temperature)),
                     .arguments = {{"logits", Role::master, {s.batch, s.vocab}, input, normal(2)},
                                   {"draws", Role::master, {s.batch}, input, between(0.001, 0.999)},
                                   {"tokens", Role::tokens, {s.batch}, output}},
                     .run = [s](Backend& b, const Tensors& t) {
                       b.sample(s, t["logits"], t["draws"], t["tokens"]);
                     }});
  return cases;
}

}  // namespace megabyte::test
