// A prompt's complete patches in one parallel forward, which leaves what decoding needs: the keys
// and values of the coarsest stage, and of the finer ones that see across patches or encode. Finer
// stages that begin anew with every patch need nothing, and do not run.
#pragma once

#include <vector>

#include "generate/stage_decoder.h"

namespace megabyte {

// The memory of such a forward, for rows of `patches` complete patches (at least one).
class Prefill {
 public:
  Prefill(const Hierarchy& model, const std::vector<StageDecoder>& stages, int64_t batch,
          int64_t patches);

  // tokens (B, (patches + 1) * P_0) of the host: rows padded by one patch of any bytes. Leaves the
  // stages as if the first `patches` * P_0 bytes of each row had come one by one.
  void run(std::vector<StageDecoder>& stages, const uint16_t* tokens) const;

 private:
  void plan(Arena& arena);

  const Hierarchy& model_;
  int64_t patches_;
  size_t stage_count_;  // of stages that run
  BatchPlan plan_;
  Buffer buffer_;
  Tensor tokens_;
  std::vector<StageShape> shapes_;
  std::vector<StageActivations> stages_;
};

}  // namespace megabyte
