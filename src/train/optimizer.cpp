#include "train/optimizer.h"

#include "base/arena.h"

namespace megabyte {

Optimizer::Optimizer(Backend& backend, const Parameters& parameters,
                     const std::vector<double>& stage_lr)
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
  for (const Parameters::Group& group : parameters.groups()) {
    const auto stage = static_cast<size_t>(group.stage);
    const double lr = stage < stage_lr.size() ? stage_lr[stage] : 1;
    if (!parts_.empty() && parts_.back().decayed == group.decayed && parts_.back().lr == lr)
      parts_.back().count += group.count;
    else
      parts_.push_back({group.begin, group.count, group.decayed, lr});
  }
}

void Optimizer::update(const AdamwStep& step) {
  backend_.zero(norm_sq_);
  backend_.sum_of_squares(parameters_.gradients(), norm_sq_);
  for (const Part& part : parts_) {
    AdamwStep own = step;
    own.lr *= part.lr;
    if (!part.decayed) own.decay = 0;
    const auto slice = [&](const Tensor& t) {
      return t ? t.slice(part.begin, part.count) : Tensor{};
    };
    backend_.adamw(own, slice(parameters_.values()), slice(parameters_.copies()),
                   slice(parameters_.gradients()), slice(m_), slice(v_), norm_sq_);
  }
}

}  // namespace megabyte
