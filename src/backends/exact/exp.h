// The exponential function of the exact numbers (docs/exact.md), and what a codec makes of it: the
// same bits on every machine.
#pragma once

#include <cstdint>

namespace megabyte::exact {

// Of docs/exact.md: changes whenever any bit of any result does.
inline constexpr int kVersion = 1;

// e^x to within 0.9 units in the last place, x clamped to [-86, 88]; e^NaN = e^-86. exp(0) is 1.
float exp(float x);

// out[r, i] = 1 + trunc(2^22 * exp(logits[r, i] - max_j logits[r, j])) for rows (rows, vocab):
// symbol i has probability out[r, i] / sum_j out[r, j]. A NaN counts as -infinity.
void frequencies(const float* logits, int64_t rows, int64_t vocab, uint32_t* out);

}  // namespace megabyte::exact
