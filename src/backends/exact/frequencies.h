// What a codec makes of the exact numbers (docs/exact.md): the same bits on every machine.
#pragma once

#include <cstdint>

namespace megabyte::exact {

// Of docs/exact.md: changes whenever any bit of any result does.
inline constexpr int kVersion = 1;

// out[r, i] = 1 + trunc(2^22 * exp(logits[r, i] - max_j logits[r, j])) for rows (rows, vocab):
// symbol i has probability out[r, i] / sum_j out[r, j]. A NaN counts as -infinity.
void frequencies(const float* logits, int64_t rows, int64_t vocab, uint32_t* out);

}  // namespace megabyte::exact
