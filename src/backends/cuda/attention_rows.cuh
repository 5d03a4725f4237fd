// Which keys a query sees, and where its numbers lie: shared by all attention kernels.
//
// A batch row has `sequences` sequences of `length` positions; of each sequence the last `queries`
// positions ask. Keys are numbered by their position in the row, queries by their order in the row;
// both the first and the last key that a query sees grow with its number.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {

// Division by a number known at launch (Granlund and Montgomery 1994), of numbers below 2^31.
struct Divisor {
  uint32_t value, multiplier, shift;

  Divisor() = default;
  explicit Divisor(int by) : value(static_cast<uint32_t>(by)), shift(0) {
    while ((uint64_t{1} << shift) < value) ++shift;
    multiplier =
        static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value)) / value + 1);
  }
  __device__ int divide(int x) const {
    const auto dividend = static_cast<uint32_t>(x);
    return static_cast<int>((__umulhi(dividend, multiplier) + dividend) >> shift);
  }
};

struct AttentionRows {
  int rows;
  int sequences, length, queries, cross;
  int heads, head_dim;
  Divisor by_length, by_queries;

  __host__ __device__ int keys() const { return sequences * length; }
  __host__ __device__ int asking() const { return sequences * queries; }
  __host__ __device__ int64_t width() const { return int64_t{heads} * head_dim; }

  __device__ int position(int query) const {
    return query + (by_queries.divide(query) + 1) * (length - queries);
  }
  // The first key that a query sees; the last is its own position.
  __device__ int begin(int query) const {
    return max(0, by_queries.divide(query) * length - cross);
  }

  // The queries that see any of the keys first..last are among [first_asking, end_asking).
  __device__ int first_asking(int first) const {
    const int s = by_length.divide(first);
    return s * queries + max(0, first - s * length - (length - queries));
  }
  __device__ int end_asking(int last) const {
    return (min(sequences - 1, by_length.divide(last + cross)) + 1) * queries;
  }

  __device__ int64_t key_row(int row, int key) const { return int64_t{row} * keys() + key; }
  __device__ int64_t out_row(int row, int query) const { return int64_t{row} * asking() + query; }
  __device__ int64_t stats_index(int row, int query, int head) const {
    const int s = by_queries.divide(query);
    return ((int64_t{row} * sequences + s) * heads + head) * queries + (query - s * queries);
  }
};

// A block's share: `per_block` neighbouring positions (keys or queries) of one head of one row.
struct AttentionBlock {
  int head, row, first;

  // Shares of one position range are neighbours.
  __device__ AttentionBlock(const AttentionRows& rows, int per_block) {
    const int x = static_cast<int>(blockIdx.x);
    head = x % rows.heads;
    row = x / rows.heads % rows.rows;
    first = x / rows.heads / rows.rows * per_block;
  }
};

// phi(x) = elu(x) + 1 of linear attention; its slope follows from its value.
__device__ inline float feature(float x) { return x > 0 ? x + 1 : expf(x); }
__device__ inline float feature_slope(float phi) { return fminf(phi, 1); }

// The grid that AttentionBlock expects.
inline unsigned attention_blocks(const AttentionRows& rows, int positions, int per_block) {
  return static_cast<unsigned>(ceil_div(positions, per_block) * rows.heads * rows.rows);
}

}  // namespace megabyte::cuda
