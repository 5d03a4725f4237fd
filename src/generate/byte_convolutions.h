// The patch encoder (causal convolutions over bytes, docs/model.md) as its bytes come: it remembers
// the last width - 1 inputs of each convolution.
#pragma once

#include <vector>

#include "layers/stage.h"

namespace megabyte {

class ByteConvolutions {
 public:
  // For `batch` rows that get `bytes` bytes at a time, of `dim` channels.
  ByteConvolutions(const std::vector<ConvolutionWeights>& weights, int64_t batch, int64_t bytes,
                   int64_t dim, DType compute, DType residual, Arena& arena);

  void reset(Backend& backend);  // to a row's start
  // h (batch * bytes, dim) residual dtype, in place: h += gelu(conv(h)) for each width.
  void run(Backend& backend, const std::vector<ConvolutionWeights>& weights, const Tensor& h) const;

  // Takes the history from a forward over rows of `row` bytes: what convolution `j` read, in (batch
  // * row, dim), up to byte `end`.
  void absorb(Backend& backend, size_t j, const Tensor& in, int64_t row, int64_t end) const;

 private:
  struct Convolution {
    Tensor history;   // (batch, (width - 1) * dim) residual dtype
    Tensor window;    // (batch * (width - 1 + bytes), dim): the history, then the new bytes
    Tensor unfolded;  // (batch * (width - 1 + bytes), dim * width) compute dtype
    Tensor taken;     // (batch * bytes, dim * width): those of the new bytes
  };
  int64_t batch_, bytes_, dim_;
  std::vector<Convolution> convolutions_;
  Tensor activated_;  // (batch * bytes, dim) compute dtype
};

}  // namespace megabyte
