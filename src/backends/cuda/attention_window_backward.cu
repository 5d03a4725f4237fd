// The gradient of attention over short windows (attention_window_forward.cu). Every gradient is
// summed by one warp in a fixed order: a tile of 16 queries takes its keys for dq, a tile of 16
// keys its queries for dk and dv, and tiles that see nothing but themselves do both at once.
#include <cmath>

#include "backends/cuda/attention_fragments.cuh"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

constexpr int kWarps = 4;

struct Scale {
  float log2, plain;  // of the scores: to powers of two, and as they are
};

struct Lane {
  int g, c, head, row, first;

  __device__ explicit Lane(const AttentionRows& rows)
      : g(static_cast<int>(threadIdx.x % 32 / 4)), c(static_cast<int>(threadIdx.x % 4)) {
    const AttentionBlock block(rows, kWarps * 16);
    head = block.head;
    row = block.row;
    first = block.first + static_cast<int>(threadIdx.x / 32) * 16;
  }
  // The columns of a score tile, or rows of a ColumnTile, that this lane holds.
  __device__ int column(int i) const { return 2 * c + i % 2 + i / 2 * 8; }
};

constexpr float kLog2e = 1.4426950408889634F;

// Sequences that lie within tiles of 16 and see nothing else.
template <int D>
__global__ void __launch_bounds__(kWarps * 32)
    tile_backward_kernel(AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
  const Lane lane(rows);
  const int last = min(lane.first + 15, rows.asking() - 1);
  if (lane.first > last) return;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
  const bf16* above = x.dout + rows.out_row(lane.row, 0) * width + lane.head * D;
  const auto position = [&](int i) { return min(lane.first + i, last); };
  const auto at = [&](int i) { return inputs + int64_t{position(i)} * 3 * width; };
  const auto dout_at = [&](int i) { return above + int64_t{position(i)} * width; };
  const int g = lane.g, g8 = lane.g + 8;

  ScoreTile weights, dscores;
  {
    RowTile<D> q, k, v, dout;
    q.load(at(g), at(g8));
    k.load(at(g) + width, at(g8) + width);
    v.load(at(g) + 2 * width, at(g8) + 2 * width);
    dout.load(dout_at(g), dout_at(g8));
    weights = product(q, k);
    dscores = product(dout, v);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = lane.first + g + 8 * i;
    const bool asks = query <= last;
    const float top =
        asks ? x.stats[rows.stats_index(lane.row, query, lane.head)] * kLog2e : INFINITY;
    const int begin = rows.begin(query);
    float mean = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = lane.first + lane.column(j);
      float& weight = weights.v[j / 2][2 * i + j % 2];
      weight = asks && key >= begin && key <= query ? power_of_two(weight * scale.log2 - top) : 0;
      mean += weight * dscores.v[j / 2][2 * i + j % 2];
    }
    mean = quad_sum(mean);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& dscore = dscores.v[j / 2][2 * i + j % 2];
      dscore = weights.v[j / 2][2 * i + j % 2] * (dscore - mean) * scale.plain;
    }
  }

  bf16* gradients = x.dqkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
  const auto store = [&](const OutTile<D>& sum, int third) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (lane.first + g + 8 * i <= last)
        sum.store(i, gradients + int64_t{lane.first + g + 8 * i} * 3 * width + third * width);
  };
  const auto column_rows = [&](auto&& row_of, int64_t third, ColumnTile<D>& tile) {
    tile.load({row_of(lane.column(0)) + third * width, row_of(lane.column(1)) + third * width,
               row_of(lane.column(2)) + third * width, row_of(lane.column(3)) + third * width});
  };
  const auto turn = [](uint32_t(&a)[4]) {
    const uint32_t corner = transpose(a[1]);
    a[0] = transpose(a[0]);
    a[1] = transpose(a[2]);
    a[2] = corner;
    a[3] = transpose(a[3]);
  };
  ColumnTile<D> other;
  uint32_t a[4];
  dscores.pack_rows(a);
  {
    OutTile<D> dq;
    column_rows(at, 1, other);
    dq.add(a, other);
    store(dq, 0);
  }
  turn(a);
  {
    OutTile<D> dk;
    column_rows(at, 0, other);
    dk.add(a, other);
    store(dk, 1);
  }
  weights.pack_rows(a);
  turn(a);
  {
    OutTile<D> dv;
    column_rows(dout_at, 0, other);
    dv.add(a, other);
    store(dv, 2);
  }
}

// dq of 16 queries, and their delta.
template <int D>
__global__ void __launch_bounds__(kWarps * 32)
    window_queries_kernel(AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
  const Lane lane(rows);
  const int g = lane.g;
  const int last = min(lane.first + 15, rows.asking() - 1);
  if (lane.first > last) return;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
  const auto at = [&](int key) { return inputs + int64_t{key} * 3 * width; };

  int position[2], begin[2];
  float top[2], delta[2];
  int64_t answers[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = min(lane.first + g + 8 * i, last);
    position[i] = rows.position(query);
    begin[i] = rows.begin(query);
    top[i] = x.stats[rows.stats_index(lane.row, query, lane.head)] * kLog2e;
    answers[i] = rows.out_row(lane.row, query) * width + lane.head * D;
  }
  RowTile<D> q, dout;
  q.load(at(position[0]), at(position[1]));
  dout.load(x.dout + answers[0], x.dout + answers[1]);
  {
    RowTile<D> out;
    out.load(x.out + answers[0], x.out + answers[1]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      delta[i] = quad_sum(dout.dot(out, i));
      const int query = lane.first + g + 8 * i;
      if (query <= last && lane.c == 0)
        x.delta[rows.stats_index(lane.row, query, lane.head)] = delta[i];
    }
  }

  OutTile<D> dq;
  const int end = rows.position(last) + 1;
  for (int key = rows.begin(lane.first); key < end; key += 16) {
    const auto clamped = [&](int i) { return at(min(key + i, end - 1)); };
    RowTile<D> tile;
    tile.load(clamped(g) + width, clamped(g + 8) + width);
    ScoreTile s = product(q, tile);
    tile.load(clamped(g) + 2 * width, clamped(g + 8) + 2 * width);
    const ScoreTile dweights = product(dout, tile);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at_key = key + lane.column(j);
        float& score = s.v[j / 2][2 * i + j % 2];
        const bool seen = at_key >= begin[i] && at_key <= position[i];
        score = seen ? power_of_two(score * scale.log2 - top[i]) *
                           (dweights.v[j / 2][2 * i + j % 2] - delta[i]) * scale.plain
                     : 0;
      }
    uint32_t a[4];
    s.pack_rows(a);
    ColumnTile<D> k;
    k.load({clamped(lane.column(0)) + width, clamped(lane.column(1)) + width,
            clamped(lane.column(2)) + width, clamped(lane.column(3)) + width});
    dq.add(a, k);
  }
  bf16* gradients = x.dqkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (lane.first + g + 8 * i <= last) dq.store(i, gradients + int64_t{position[i]} * 3 * width);
}

// dk and dv of 16 keys.
template <int D>
__global__ void __launch_bounds__(kWarps * 32, D == 64 ? 3 : 1)
    window_keys_kernel(AttentionRows rows, AttentionBackward<bf16> x, Scale scale) {
  const Lane lane(rows);
  const int g = lane.g;
  const int last = min(lane.first + 15, rows.keys() - 1);
  if (lane.first > last) return;
  const int64_t width = rows.width();
  const bf16* inputs = x.qkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
  const auto at = [&](int key) { return inputs + int64_t{key} * 3 * width; };
  const bf16* key0 = at(min(lane.first + g, last));
  const bf16* key1 = at(min(lane.first + g + 8, last));

  OutTile<D> dk, dv;
  const int end = rows.end_asking(last);
  for (int query = rows.first_asking(lane.first); query < end; query += 16) {
    const auto clamped = [&](int i) { return min(query + i, end - 1); };
    const auto q_at = [&](int i) { return at(rows.position(clamped(i))); };
    const auto dout_at = [&](int i) {
      return x.dout + rows.out_row(lane.row, clamped(i)) * width + lane.head * D;
    };
    // Transposed: rows are keys, columns are queries.
    RowTile<D> keys, queries;
    keys.load(key0 + width, key1 + width);
    queries.load(q_at(g), q_at(g + 8));
    ScoreTile weights = product(keys, queries);
    keys.load(key0 + 2 * width, key1 + 2 * width);
    queries.load(dout_at(g), dout_at(g + 8));
    ScoreTile dscores = product(keys, queries);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int asking = query + lane.column(j);
      const int position = rows.position(clamped(lane.column(j)));
      const int begin = rows.begin(clamped(lane.column(j)));
      const int64_t at_stats = rows.stats_index(lane.row, clamped(lane.column(j)), lane.head);
      const float top = x.stats[at_stats] * kLog2e, delta = x.delta[at_stats];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = lane.first + g + 8 * i;
        float& weight = weights.v[j / 2][2 * i + j % 2];
        float& dscore = dscores.v[j / 2][2 * i + j % 2];
        const bool seen = asking < end && key >= begin && key <= position;
        weight = seen ? power_of_two(weight * scale.log2 - top) : 0;
        dscore = weight * (dscore - delta) * scale.plain;
      }
    }
    uint32_t a[4];
    ColumnTile<D> tile;
    weights.pack_rows(a);
    tile.load({dout_at(lane.column(0)), dout_at(lane.column(1)), dout_at(lane.column(2)),
               dout_at(lane.column(3))});
    dv.add(a, tile);
    dscores.pack_rows(a);
    tile.load(
        {q_at(lane.column(0)), q_at(lane.column(1)), q_at(lane.column(2)), q_at(lane.column(3))});
    dk.add(a, tile);
  }
  bf16* gradients = x.dqkv + rows.key_row(lane.row, 0) * 3 * width + lane.head * D;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = lane.first + g + 8 * i;
    if (key > last) continue;
    dk.store(i, gradients + int64_t{key} * 3 * width + width);
    dv.store(i, gradients + int64_t{key} * 3 * width + 2 * width);
  }
}

template <int D>
void launch(const AttentionRows& rows, const AttentionBackward<bf16>& x, cudaStream_t stream) {
  const double plain = 1 / std::sqrt(static_cast<double>(D));
  const Scale scale{static_cast<float>(plain / std::log(2.0)), static_cast<float>(plain)};
  const auto grid = [&](int positions) { return attention_blocks(rows, positions, kWarps * 16); };
  if (rows.cross == 0 && rows.queries == rows.length && 16 % rows.length == 0) {
    tile_backward_kernel<D><<<grid(rows.keys()), kWarps * 32, 0, stream>>>(rows, x, scale);
  } else {
    window_queries_kernel<D><<<grid(rows.asking()), kWarps * 32, 0, stream>>>(rows, x, scale);
    check_launch("attention_backward");
    window_keys_kernel<D><<<grid(rows.keys()), kWarps * 32, 0, stream>>>(rows, x, scale);
  }
  check_launch("attention_backward");
}

}  // namespace

void window_backward(const AttentionRows& rows, const AttentionBackward<bf16>& x,
                     cudaStream_t stream) {
  if (rows.head_dim == 32) launch<32>(rows, x, stream);
  if (rows.head_dim == 64) launch<64>(rows, x, stream);
  if (rows.head_dim == 128) launch<128>(rows, x, stream);
}

}  // namespace megabyte::cuda
