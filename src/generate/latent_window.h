// Perceiver AR past its latents: the window of positions that go on after the first block moves by
// one with every byte, and with it what each of them sees. So only the first block can be cached;
// the others run anew over the window.
#pragma once

#include <vector>

#include "layers/block.h"

namespace megabyte {

class LatentWindow {
 public:
  // `shape` is that of the stage's blocks; rows of `length` positions.
  LatentWindow(const BlockShape& shape, int64_t layers, int64_t batch, int64_t latents,
               int64_t length, Arena& arena);

  // x (batch, D) residual dtype: what the first block made of `position`.
  void store(Backend& backend, const Tensor& x, int64_t position) const;
  // The same of a parallel forward: what the first block made of the last positions up to
  // `position` (batch * count, D), with a branch still to be added.
  void store(Backend& backend, const Pending& made, int64_t count, int64_t position) const;
  // The blocks after the first over the window that ends with `position`; gives that position's
  // (batch, D).
  Pending run(Backend& backend, const std::vector<BlockWeights>& blocks, int64_t position) const;

 private:
  int64_t latents_, length_;
  BlockShape every_, last_;  // of the last block only the last position's answer is needed
  Tensor stream_;            // (batch, length * D) residual dtype
  Tensor window_;            // (batch * latents, D)
  BlockActivations activations_, last_activations_;
  BlockScratch scratch_;
};

}  // namespace megabyte
