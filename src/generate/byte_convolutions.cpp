#include "generate/byte_convolutions.h"

#include <algorithm>

namespace megabyte {

ByteConvolutions::ByteConvolutions(const std::vector<ConvolutionWeights>& weights, int64_t batch,
                                   int64_t bytes, int64_t dim, DType compute, DType residual,
                                   Arena& arena)
    : batch_(batch), bytes_(bytes), dim_(dim) {
  for (const ConvolutionWeights& w : weights) {
    const int64_t rows = batch * (w.width - 1 + bytes);
    convolutions_.push_back({.history = arena.make({batch, (w.width - 1) * dim}, residual),
                             .window = arena.make({rows, dim}, residual),
                             .unfolded = arena.make({rows, dim * w.width}, compute),
                             .taken = arena.make({batch * bytes, dim * w.width}, compute)});
  }
  if (!weights.empty()) activated_ = arena.make({batch * bytes, dim}, compute);
}

void ByteConvolutions::reset(Backend& backend) {
  for (const Convolution& c : convolutions_) backend.zero(c.history);
}

void ByteConvolutions::absorb(Backend& backend, size_t j, const Tensor& in, int64_t row,
                              int64_t end) const {
  const Tensor& history = convolutions_[j].history;
  const int64_t past = history.shape[1] / dim_, taken = std::min(past, end);
  backend.zero(history);  // where the row is shorter
  const Tensor to =
      history.view({batch_ * past, dim_}).slice(past - taken, batch_ * past - past + taken);
  backend.copy_rows(in.slice(end - taken, in.shape[0] - (end - taken)), row * dim_, to, past * dim_,
                    batch_, taken * dim_);
}

void ByteConvolutions::run(Backend& backend, const std::vector<ConvolutionWeights>& weights,
                           const Tensor& h) const {
  const auto from_row = [](const Tensor& t, int64_t row) { return t.slice(row, t.shape[0] - row); };
  for (size_t j = 0; j < convolutions_.size(); ++j) {
    const Convolution& c = convolutions_[j];
    const ConvolutionWeights& w = weights[j];
    const int64_t past = w.width - 1, row = past + bytes_, fan_in = dim_ * w.width;
    backend.copy_rows(c.history, past * dim_, c.window, row * dim_, batch_, past * dim_);
    backend.copy_rows(h, bytes_ * dim_, from_row(c.window, past), row * dim_, batch_,
                      bytes_ * dim_);
    backend.copy_rows(from_row(c.window, bytes_), row * dim_, c.history, past * dim_, batch_,
                      past * dim_);
    backend.unfold(c.window, row, w.width, c.unfolded);
    backend.copy_rows(from_row(c.unfolded, past), row * fan_in, c.taken, bytes_ * fan_in, batch_,
                      bytes_ * fan_in);
    backend.linear_forward(c.taken, w.weight.value.view({dim_, fan_in}), w.bias.value,
                           Activation::gelu, {}, activated_);
    backend.add(h, activated_, h);
  }
}

}  // namespace megabyte
