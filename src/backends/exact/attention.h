// Attention of the exact backend, as Backend has it (ops/ops.h).
#pragma once

#include <cstdint>

#include "backends/exact/kernels.h"
#include "backends/exact/rotary_table.h"
#include "ops/ops.h"

namespace megabyte::exact {

class Attention {
 public:
  Attention(int threads, const Kernels& kernels) : threads_(threads), kernels_(kernels) {}

  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first);
  void forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out) const;
  void decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys, const Tensor& values,
              const Tensor& out) const;
  // Linear attention with a running state.
  void decode_running(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                      const Tensor& out) const;

 private:
  int threads_;
  const Kernels& kernels_;
  RotaryTables rotary_;
};

}  // namespace megabyte::exact
