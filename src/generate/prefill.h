// A prompt's complete patches in one parallel forward, which leaves what decoding needs: the keys
// and values of the coarsest stage, and of the finer ones that see across patches or encode. Finer
// stages that begin anew with every patch need nothing, and do not run.
#pragma once

#include <vector>

#include "generate/stage_decoder.h"

namespace megabyte {

// tokens (B * (patches + 1) * P_0) u16 on the backend, rows padded by one patch of any bytes.
// Leaves the stages as if the first `patches` * P_0 bytes of each row had come one by one.
void prefill(const Hierarchy& model, std::vector<StageDecoder>& stages, int64_t batch,
             int64_t patches, const Tensor& tokens);

}  // namespace megabyte
