#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"

namespace megabyte {
namespace {

struct Candidate {
  double weight;  // probability, up to a common factor
  uint16_t token;
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Index of the largest logit; the lowest wins a tie, NaN never wins.
template <class T>
uint16_t argmax(const T* logits, int64_t vocab) {
  int64_t best = -1;
  for (int64_t i = 0; i < vocab; ++i)
    if (!std::isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
  return static_cast<uint16_t>(std::max<int64_t>(best, 0));
}

// The weights exp((logit - max) / temperature) that are not 0, in the order of tokens. Equal to the
// maximum counts as 1 even where that is infinite.
template <class T>
void collect(const T* logits, int64_t vocab, double temperature, std::vector<Candidate>& out) {
  const double top = logits[argmax(logits, vocab)];
  out.clear();
  for (int64_t i = 0; i < vocab; ++i) {
    const double logit = logits[i];
    const double weight = logit == top ? 1 : std::exp((logit - top) / temperature);
    if (weight > 0) out.push_back({weight, static_cast<uint16_t>(i)});
  }
}

double total_weight(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  return total;
}

void keep_top_p(double top_p, std::vector<Candidate>& candidates) {
  const double enough = top_p * total_weight(candidates);
  double total = 0;
  size_t kept = 0;
  do total += candidates[kept++].weight;
  while (total < enough && kept < candidates.size());
  candidates.resize(kept);
}

uint16_t draw(const std::vector<Candidate>& candidates, double u) {
  const double threshold = u * total_weight(candidates);
  double total = 0;
  for (const Candidate& c : candidates) {
    total += c.weight;
    if (total > threshold) return c.token;
  }
  return candidates.back().token;  // the sum rounded down
}

template <class T>
void sample_rows(const SampleShape& shape, const T* logits, const T* draws, uint16_t* tokens) {
  check(shape.vocab > 0 && shape.vocab <= std::numeric_limits<uint16_t>::max() + 1,
        "sample: tokens fit 16 bits");
  check(shape.temperature >= 0 && shape.top_k >= 0,
        "sample: temperature and top_k are not negative");
  thread_local std::vector<Candidate> candidates;  // kept, so that decoding does not allocate
  for (int64_t b = 0; b < shape.batch; ++b) {
    const T* row = logits + b * shape.vocab;
    if (shape.temperature == 0) {
      tokens[b] = argmax(row, shape.vocab);
      continue;
    }
    collect(row, shape.vocab, shape.temperature, candidates);
    if (candidates.empty()) {  // all NaN
      tokens[b] = 0;
      continue;
    }
    const bool top_k = shape.top_k > 0 && shape.top_k < static_cast<int64_t>(candidates.size());
    if (top_k || shape.top_p < 1) std::sort(candidates.begin(), candidates.end(), likelier);
    if (top_k) candidates.resize(static_cast<size_t>(shape.top_k));
    if (shape.top_p < 1) keep_top_p(shape.top_p, candidates);
    tokens[b] = draw(candidates, draws[b]);
  }
}

}  // namespace

void sample_on_host(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
                    uint16_t* tokens) {
  check(logits.size() == shape.batch * shape.vocab, "sample: logits (batch, vocab)");
  check(shape.temperature == 0 || (draws && draws.size() == shape.batch),
        "sample: a draw for each row");
  if (logits.dtype == DType::f64)
    sample_rows(shape, logits.as<double>(), draws ? draws.as<double>() : nullptr, tokens);
  else
    sample_rows(shape, logits.as<float>(), draws ? draws.as<float>() : nullptr, tokens);
}

}  // namespace megabyte
