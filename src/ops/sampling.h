// Drawing tokens from logits on the host: shared by the backends whose memory is the host's.
#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace megabyte {

// logits (batch, vocab) float or double, tokens (batch).
void sample_on_host(const SampleShape& shape, const Tensor& logits, uint16_t* tokens);

}  // namespace megabyte
