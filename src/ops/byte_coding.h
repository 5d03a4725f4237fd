// What backends with exact numbers (docs/exact.md) can do besides: code bytes by the frequencies
// that logits give the first 256 symbols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace megabyte {

// What a range coder needs of a byte that is known.
struct ByteShare {
  uint32_t below, frequency, total;  // the sum of the frequencies of smaller bytes; of all
};

// Tensors lie in the backend's memory, and calls are in the order of its operations.
class ByteCoding {
 public:
  virtual ~ByteCoding() = default;

  // Rows that it pays to run at once: more gain no speed. Bytes of memory that they may take.
  virtual int64_t rows_that_pay() const = 0;
  virtual size_t spare_memory() const = 0;

  // logits (rows, V) f32, bytes (rows) u16, shares (rows, sizeof(ByteShare)) u8.
  virtual void byte_shares(const Tensor& logits, const Tensor& bytes, const Tensor& shares) = 0;
  // Decodes the next byte of each row: logits (rows, V) f32, decoders (rows, sizeof(RangeDecoder))
  // u8 (ops/range_coder.h), bytes (rows) u16.
  virtual void decode_bytes(const Tensor& logits, const Tensor& decoders, const Tensor& bytes) = 0;
};

}  // namespace megabyte
