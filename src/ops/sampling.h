// Drawing bytes from logits in the host's memory, shared by the backends that live there.
#pragma once

#include "ops/ops.h"

namespace megabyte {

// Backend::sample on logits (batch, vocab; f32 or f64), draws (batch; of the same type) and tokens
// (batch). Temperature first, then
// the top_k likeliest, then of those the smallest set whose probability reaches top_p (at least
// one); ties go to the lower index. A NaN logit has probability 0; where all are NaN the token is
// 0.
void sample_on_host(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
                    uint16_t* tokens);

}  // namespace megabyte
