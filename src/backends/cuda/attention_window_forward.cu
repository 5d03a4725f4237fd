// Attention over short windows, above all inside patches: a warp answers 16 queries of one head
// with q, k and v read from qkv straight into tensor core operands, so that nothing but the inputs
// and outputs moves.
#include <cmath>

#include "backends/cuda/attention_fragments.cuh"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

constexpr int kWarps = 4;  // neighbouring tiles of one head, which share keys

template <int D>
__global__ void __launch_bounds__(kWarps * 32)
    window_forward_kernel(AttentionRows rows, AttentionForward<bf16> x, float scale) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = lane % 4;
  const AttentionBlock block(rows, kWarps * 16);
  const int head = block.head, row = block.row;
  const int first = block.first + static_cast<int>(threadIdx.x / 32) * 16;
  const int last = min(first + 15, rows.asking() - 1);
  if (first > last) return;
  const int64_t width = rows.width();
  const bf16* q_rows = x.qkv + rows.key_row(row, 0) * 3 * width + head * D;
  const auto at = [&](int key) { return q_rows + int64_t{key} * 3 * width; };

  int position[2], begin[2];  // of queries g, g + 8
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = min(first + g + 8 * i, last);
    position[i] = rows.position(query);
    begin[i] = rows.begin(query);
  }
  RowTile<D> q;
  q.load(at(position[0]), at(position[1]));

  OutTile<D> out;
  float top[2] = {-INFINITY, -INFINITY};  // of the scores times log2(e)
  float total[2] = {0, 0};                // this lane's part
  const int end = rows.position(last) + 1;
  for (int key = rows.begin(first); key < end; key += 16) {
    const auto clamped = [&](int i) { return at(min(key + i, end - 1)); };
    RowTile<D> k;
    k.load(clamped(g) + width, clamped(g + 8) + width);
    ColumnTile<D> v;
    v.load({clamped(2 * c) + 2 * width, clamped(2 * c + 1) + 2 * width,
            clamped(2 * c + 8) + 2 * width, clamped(2 * c + 9) + 2 * width});
    ScoreTile s = product(q, k);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at_key = key + 8 * j + 2 * c + e;
          float& score = s.v[j][2 * i + e];
          score = at_key >= begin[i] && at_key <= position[i] ? score * scale : -INFINITY;
          largest = fmaxf(largest, score);
        }
      largest = quad_max(largest);
      const float shift = largest == -INFINITY ? 0 : largest;  // nothing seen so far
      const float fade = power_of_two(top[i] - shift);
      top[i] = largest;
      total[i] *= fade;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = s.v[j][2 * i + e];
          score = power_of_two(score - shift);
          total[i] += score;
        }
      out.scale(i, fade);
    }
    uint32_t weights[4];
    s.pack_rows(weights);
    out.add(weights, v);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] = quad_sum(total[i]);
    out.scale(i, 1 / total[i]);
    const int query = first + g + 8 * i;
    if (query > last) continue;
    out.store(i, x.out + rows.out_row(row, query) * width + head * D);
    if (x.stats != nullptr && c == 0)
      x.stats[rows.stats_index(row, query, head)] =
          (top[i] + log2f(total[i])) * 0.6931471805599453F;
  }
}

template <int D>
void launch(const AttentionRows& rows, const AttentionForward<bf16>& x, cudaStream_t stream) {
  const auto scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(D)) * std::log(2.0)));
  window_forward_kernel<D>
      <<<attention_blocks(rows, rows.asking(), kWarps * 16), kWarps * 32, 0, stream>>>(rows, x,
                                                                                       scale);
  check_launch("attention_forward");
}

}  // namespace

void window_forward(const AttentionRows& rows, const AttentionForward<bf16>& x,
                    cudaStream_t stream) {
  if (rows.head_dim == 32) launch<32>(rows, x, stream);
  if (rows.head_dim == 64) launch<64>(rows, x, stream);
  if (rows.head_dim == 128) launch<128>(rows, x, stream);
}

}  // namespace megabyte::cuda
