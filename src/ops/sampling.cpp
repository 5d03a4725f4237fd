#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace megabyte {
namespace {

struct Candidate {
  double logit;
  int64_t index;
};

// More probable first; the lower index wins a tie.
bool before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.index < b.index;
}

// One token: greedy, or drawn from the candidates that top-k and then top-p leave.
int64_t draw(const SampleShape& shape, std::vector<Candidate>& candidates, uint64_t sample) {
  if (shape.temperature <= 0)
    return std::min_element(candidates.begin(), candidates.end(), before)->index;
  const bool narrowed = shape.top_k > 0 || shape.top_p < 1;
  if (narrowed) std::sort(candidates.begin(), candidates.end(), before);
  if (shape.top_k > 0 && shape.top_k < static_cast<int64_t>(candidates.size()))
    candidates.resize(static_cast<size_t>(shape.top_k));
  const double largest =
      narrowed ? candidates.front().logit
               : std::min_element(candidates.begin(), candidates.end(), before)->logit;
  double total = 0;
  for (Candidate& c : candidates)
    total += c.logit = std::exp((c.logit - largest) / shape.temperature);
  if (shape.top_p < 1) {  // the smallest set that reaches top_p
    double kept = 0;
    size_t count = 0;
    while (count < candidates.size() && (count == 0 || kept < shape.top_p * total))
      kept += candidates[count++].logit;
    candidates.resize(count);
    total = kept;
  }
  double left =
      static_cast<double>(uniform(philox(shape.seed, shape.first + sample, shape.position)[0])) *
      total;
  for (const Candidate& c : candidates)
    if ((left -= c.logit) < 0) return c.index;
  return candidates.back().index;
}

}  // namespace

void sample_on_host(const SampleShape& shape, const Tensor& logits, uint16_t* tokens) {
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(shape.vocab));
  for (int64_t b = 0; b < shape.batch; ++b) {
    candidates.clear();
    for (int64_t v = 0; v < shape.vocab; ++v) {
      const int64_t i = b * shape.vocab + v;
      double x = logits.dtype == DType::f64 ? logits.as<double>()[i]
                                            : static_cast<double>(logits.as<float>()[i]);
      // A logit that is not a number is never drawn; an infinite one stays comparable.
      if (std::isnan(x)) x = -std::numeric_limits<double>::max();
      candidates.push_back(
          {std::clamp(x, -std::numeric_limits<double>::max(), std::numeric_limits<double>::max()),
           v});
    }
    tokens[b] = static_cast<uint16_t>(draw(shape, candidates, static_cast<uint64_t>(b)));
  }
}

}  // namespace megabyte
