#include "train/optimizer.h"

#include "base/arena.h"

namespace megabyte {

Optimizer::Optimizer(Backend& backend, const Parameters& parameters)
    : backend_(backend), parameters_(parameters) {
  const Tensor values = parameters.values();
  const auto plan = [&](Arena& arena) {
    m_ = arena.make(values.shape, values.dtype);
    v_ = arena.make(values.shape, values.dtype);
    norm_sq_ = arena.make({1}, DType::f64);
  };
  Arena measure;
  plan(measure);
  buffer_ = backend.allocate(measure.peak());
  Arena arena(buffer_.data());
  plan(arena);
  for (const Tensor& t : {m_, v_, norm_sq_}) backend.zero(t);
}

void Optimizer::update(const AdamwStep& step) {
  backend_.zero(norm_sq_);
  backend_.sum_of_squares(parameters_.gradients(), norm_sq_);
  const auto update_part = [&](int64_t begin, int64_t count, double decay) {
    if (count == 0) return;
    AdamwStep part = step;
    part.decay = decay;
    const auto slice = [&](const Tensor& t) { return t ? t.slice(begin, count) : Tensor{}; };
    backend_.adamw(part, slice(parameters_.values()), slice(parameters_.copies()),
                   slice(parameters_.gradients()), slice(m_), slice(v_), norm_sq_);
  };
  const int64_t decayed = parameters_.decayed_size();
  update_part(0, decayed, step.decay);
  update_part(decayed, parameters_.values().size() - decayed, 0);
}

}  // namespace megabyte
