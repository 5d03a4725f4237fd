// All blocks of a stage at one new position of 2 to 16 rows.
//
// As for one row (decode_stack_row.cuh), blocks of threads own rows of every matrix and their warps
// share the summed index, but the tensor cores multiply the weights with 8 or 16 rows at once, and
// what the blocks tell each other is as much as the weights of a small matrix. So
//  - vectors travel without tags, 8 bf16 of one row to a unit, and their block clears them;
//  - while it waits, a warp looks at 32 units of its part, and only then reads all;
//  - the residual stream stays, in f32, with the blocks that have its columns; the others norm what
//    those give them, rounded to bf16;
//  - of `down` a block has four times as many rows of a quarter of the summed index, so that it
//    reads a quarter of the hidden units; four blocks exchange their parts of the sums.
#pragma once

#include "backends/cuda/decode_stack_exchange.cuh"
#include "backends/cuda/decode_stack_ring.cuh"

namespace megabyte::cuda::stack {

// kTiles * 8 rows.
template <int D_, int kTiles_>
struct RowsGeometry : Deal<D_> {
  using Deal<D_>::D, Deal<D_>::kSlice, Deal<D_>::kUp;
  static constexpr int kTiles = kTiles_, kRows = 8 * kTiles;
  static constexpr int kSlots = D == 1024 ? 11 : 5, kOnTheirWay = kTiles == 1 ? 2 : 1;
  static constexpr int kPairs = Deal<D_>::kHeads * kRows / kBlocks;  // of row and head, of a block
  // Shared memory after the ring: sums of a warp for each row of x (4 unused floats keep the banks
  // apart), the norm's weight and bias, statistics.
  static constexpr int kSums = kWarps * kRows * (8 * kUp + 4);  // floats
  static constexpr int kAnswer = kHead + 4;                     // floats of a warp's answer
  static_assert(kPairs * kWarps * kAnswer <= kSums);
  static constexpr int kShared =
      kSlots * Deal<D_>::kSlotBytes + 4 * kSums + 2 * 4 * D + 8 * kWarps * kRows + 16 * kSlots;
  // Where the vectors are in the exchange, in units.
  static constexpr int kVector = D / 8 * kRows;
  static constexpr int kQkvUnits = 0, kAttendedUnits = 3 * kVector, kMiddleUnits = 4 * kVector,
                       kHiddenUnits = 5 * kVector, kEndUnits = 9 * kVector,
                       kInputUnits = 10 * kVector, kPartUnits = 11 * kVector,
                       kUnits = kPartUnits + 8 * kVector;
  static constexpr int kExchangeBytes = 16 * kUnits, kClear = 0xFF;
};

// Pair i of a block's rows and heads.
template <class G>
struct Pair {
  int row, head;
  __device__ explicit Pair(int i) {
    const int pair = static_cast<int>(blockIdx.x) + i * kBlocks;
    row = pair / G::kHeads;
    head = pair % G::kHeads;
  }
  // Of its keys and values.
  __device__ int64_t cache(int capacity) const {
    return (int64_t{row} * G::kHeads + head) * capacity * kHead;
  }
};

// The order in which the others use the weights.
template <class G, bool kLong>
__device__ void send_weights_of_rows(const Call& call, Sender<G> sender) {
  constexpr int D = G::D;
  const int block = static_cast<int>(blockIdx.x);
  for (int l = 0; l < call.count; ++l) {
    const Layer& w = call.layers[l];
    sender.send_rows(w.qkv + int64_t{block} * 8 * G::kQkv * D, D, G::kQkv);
    if constexpr (kLong) {
      if (l == 0) wait_for_previous();  // it may have written keys
      for (int i = 0; i < G::kPairs; ++i) {
        const Pair<G> pair(i);
        const int64_t at = pair.cache(call.capacity);
        if (pair.row < call.batch) sender.send_cache(w.keys + at, w.values + at, call.position);
      }
    }
    sender.send_rows(w.out + int64_t{block} * 8 * G::kOut * D, D, G::kOut);
    sender.send_rows(w.up + int64_t{block} * 8 * G::kUp * D, D, G::kUp);
    sender.send_rows(w.down + int64_t{block / 4} * 8 * G::kUp * 4 * D + block % 4 * D, 4 * D,
                     G::kUp);
  }
}

// A lane (g, c) of a computing warp: of rows g and g + 8 it has elements warp * kSlice + 32 i + 8 c
// and the seven after them, for i < kChunks.
template <class G>
class Rows {
 public:
  static constexpr int D = G::D, kRows = G::kRows, kTiles = G::kTiles;

  __device__ Rows(const Call& call, const Ring<G>& ring, char* memory) : call_(call), ring_(ring) {
    sums_ = reinterpret_cast<float*>(memory);
    norm_ = sums_ + G::kSums + warp_ * 2 * G::kSlice;
    stats_ = reinterpret_cast<float2*>(sums_ + G::kSums + 2 * D);
    units_ = static_cast<uint4*>(call.exchange);
    parts_ = reinterpret_cast<float*>(units_ + G::kPartUnits);
    own_ = static_cast<int>(blockIdx.x) * G::kOut * kRows;
  }

  template <bool kLong>
  __device__ void run() {
    load_norm(call_.layers[0].norm1_weight, call_.layers[0].norm1_bias);
    if (mine()) {
      stream_ = input();
      write_output(stream_, G::kInputUnits + own_ + static_cast<int>(threadIdx.x) / 8);
    }
    for (int l = 0; l < call_.count; ++l) {
      const Layer& w = call_.layers[l];
      {
        Window window;
        if constexpr (!kLong) load_window(w, window);
        const Bias<G::kQkv> bias(w.qkv_bias);
        await(l == 0 ? G::kInputUnits : G::kEndUnits, false);
        norm();
        load_norm(w.norm2_weight, w.norm2_bias);
        multiply<G::kQkv>();
        finish<G::kQkv>([&](int i, float sum) { return sum + bias.v[i]; }, G::kQkvUnits);
        // What the block before summed is there as a whole: all have read what went into it. Of
        // each clearing, a fence and a barrier of the warps come before this block next tells
        // others anything, and others look there again only after that.
        clear(G::kMiddleUnits + own_, G::kOut * kRows);
        clear(G::kHiddenUnits + 4 * own_, G::kUp * kRows);
        clear(G::kPartUnits + 8 * own_, 2 * G::kUp * kRows);
        __threadfence();
        if constexpr (kLong)
          attend(w);
        else
          attend(w, window);
      }
      {
        const Bias<G::kOut> bias(w.out_bias);
        await(G::kAttendedUnits, true);
        wait_for_warps<kAll>();  // the sums' memory is free
        multiply<G::kOut>();
        finish<G::kOut>([&](int, float sum) { return stream_ += sum + bias.v[0]; },
                        G::kMiddleUnits);
        if (l == 0) clear(G::kInputUnits + own_, G::kOut * kRows);
        clear(G::kEndUnits + own_, G::kOut * kRows);
        clear(G::kQkvUnits + 3 * own_, G::kQkv * kRows);
        __threadfence();
      }
      {
        const Bias<G::kUp> bias(w.up_bias);
        await(G::kMiddleUnits, false);
        norm();
        const bool last = l + 1 == call_.count;
        const Layer& next = call_.layers[last ? l : l + 1];
        load_norm(last ? call_.norm_weight : next.norm1_weight,
                  last ? call_.norm_bias : next.norm1_bias);
        multiply<G::kUp>();
        finish<G::kUp>(
            [&](int i, float sum) { return activate_as(call_.activation, sum + bias.v[i]); },
            G::kHiddenUnits);
        for (int i = 0; i < G::kPairs; ++i) clear(attended_at(Pair<G>(i)), 8);
        __threadfence();
      }
      {
        const Bias<G::kOut> bias(w.down_bias);
        await(G::kHiddenUnits + static_cast<int>(blockIdx.x) % 4 * G::kVector, false);
        wait_for_warps<kAll>();
        multiply<G::kUp>();
        send_parts();
        if (mine()) add_parts(bias.v[0]);
      }
    }
    if (mine() && row() < call_.batch) call_.sum[row() * D + column()] = stream_;
    if (blockIdx.x != 0) return;
    await(G::kEndUnits, false);
    norm();
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      if (8 * t + g_ < call_.batch)
#pragma unroll
        for (int i = 0; i < G::kChunks; ++i)
          *reinterpret_cast<uint4*>(call_.y + (8 * t + g_) * D + first_ + 32 * i) = operand_[t][i];
  }

 private:
  // Keys and values of a short window: those of group lane / 8, and four further on; 8 elements.
  struct Window {
    uint4 keys[2], values[2];
  };
  // Of the outputs of this thread, below, of 8 * kSlots columns of the block. Long before they are
  // needed.
  template <int kSlots>
  struct Bias {
    static constexpr int kCount = (8 * kSlots * kRows + kThreads - 1) / kThreads;
    float v[kCount];
    __device__ explicit Bias(const float* bias) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int output = static_cast<int>(threadIdx.x) + i * kThreads;
        if (output < 8 * kSlots * kRows)
          asm volatile("ld.global.nc.f32 %0, [%1];"
                       : "=f"(v[i])
                       : "l"(bias + (static_cast<int>(blockIdx.x) * kSlots + group_of(output)) * 8 +
                             output % 8));
      }
    }
  };

  // Output o of a block is column o % 8 of a group of 8, of row o / 8 % kRows. Where a block has
  // kOut groups, a thread has at most one, the first: an element of the stream.
  __device__ static int group_of(int output) { return output / (8 * kRows); }
  __device__ static int row_of(int output) { return output / 8 % kRows; }
  __device__ bool mine() const { return threadIdx.x < 8 * G::kOut * kRows; }
  __device__ int row() const { return row_of(static_cast<int>(threadIdx.x)); }
  __device__ int column() const {
    const auto output = static_cast<int>(threadIdx.x);
    return (static_cast<int>(blockIdx.x) * G::kOut + group_of(output)) * 8 + output % 8;
  }
  __device__ int attended_at(Pair<G> pair) const {
    return G::kAttendedUnits + (pair.head * kRows + pair.row) * 8;
  }

  // This thread's element of what goes into the first block.
  __device__ float input() const {
    if (row() >= call_.batch) return 0;
    const int64_t at = int64_t{row()} * D + column();
    const float x = __ldcg(call_.x + at);
    return call_.delta == nullptr ? x : x + to_float(__ldcg(call_.delta + at));
  }
  __device__ static uint4 pack8(const float (&x)[8]) {
    return {pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7])};
  }

  // The warp's part of a vector, to operand_. Units of a vector are ordered by 8 columns, then by
  // row, so that blocks share no line; where a `head` was attended to, by head, row, 8 columns.
  __device__ void await(int vector, bool by_head) {
    constexpr int kPart = G::kSlice / 8 * kRows;
    const uint4* part = units_ + vector + warp_ * kPart;
    const uint4* sign = part + (lane_ + 1) * (kPart / 32) - 1;
    while (!__all_sync(~0U, is_there(read_unit(sign)))) {
    }
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const int group = 4 * i + c_, row = 8 * t + g_;
          operand_[t][i] = read_unit(
              part + (by_head ? (group / 8 * kRows + row) * 8 + group % 8 : group * kRows + row));
        }
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) there = there && is_there(operand_[t][i]);
    } while (!__all_sync(~0U, there));
  }

  // All ones to `count` units.
  __device__ void clear(int first, int count) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads)
      write_unit(units_ + first + i, uint4{~0U, ~0U, ~0U, ~0U});
  }

  // Weight and bias of the next norm, on their way to shared memory.
  __device__ void load_norm(const float* weight, const float* bias) const {
    __syncwarp();
#pragma unroll
    for (int i = lane_ * 4; i < G::kSlice; i += 128) {
      copy_async(shared_address(norm_ + i), weight + warp_ * G::kSlice + i);
      copy_async(shared_address(norm_ + G::kSlice + i), bias + warp_ * G::kSlice + i);
    }
    commit_copies();
  }

  // Of operand_, in its place.
  __device__ void norm() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float pivot = __shfl_sync(~0U, unpack(operand_[t][0].x).x, 4 * g_);
      float sum = 0, squares = 0;
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i) {
        float x[8];
        unpack8(operand_[t][i], x);
#pragma unroll
        for (const float element : x) {
          const float off = element - pivot;
          sum += off;
          squares = fmaf(off, off, squares);
        }
      }
      sum = quad_sum(sum);
      squares = quad_sum(squares);
      // Mean, and squares about it, of each warp's piece; then of all.
      constexpr float kShare = 1.0F / G::kSlice;
      if (c_ == 0)
        stats_[warp_ * kRows + 8 * t + g_] = {pivot + sum * kShare, squares - sum * sum * kShare};
    }
    wait_for_copies<0>();
    wait_for_warps<kAll>();
    float mean[kTiles], rstd[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float2 stats[kWarps];
      float all = 0, within = 0, between = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        stats[i] = stats_[i * kRows + 8 * t + g_];
        all += stats[i].x;
        within += stats[i].y;
      }
      mean[t] = all * (1.0F / kWarps);
#pragma unroll
      for (int i = 0; i < kWarps; ++i)
        between = fmaf(stats[i].x - mean[t], stats[i].x - mean[t], between);
      const float variance = fmaxf(within + between * G::kSlice, 0) * (1.0F / D);
      rstd[t] = rsqrtf(variance + call_.eps);
    }
#pragma unroll
    for (int i = 0; i < G::kChunks; ++i) {
      float weight[8], bias[8];
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const float* at = norm_ + 32 * i + 8 * c_ + e;
        *reinterpret_cast<float4*>(weight + e) = *reinterpret_cast<const float4*>(at);
        *reinterpret_cast<float4*>(bias + e) = *reinterpret_cast<const float4*>(at + G::kSlice);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float x[8];
        unpack8(operand_[t][i], x);
#pragma unroll
        for (int e = 0; e < 8; ++e) x[e] = (x[e] - mean[t]) * rstd[t] * weight[e] + bias[e];
        operand_[t][i] = pack8(x);
      }
    }
  }

  // The next kSlots slots' rows times operand_: each warp's sums, to sums_. All warps are past the
  // sums before.
  template <int kSlots>
  __device__ void multiply() {
#pragma unroll
    for (int i = 0; i + 1 < kSlots; i += 2) multiply_slots<kSlots, 2>(i);
    if constexpr (kSlots % 2 == 1) multiply_slots<kSlots, 1>(kSlots - 1);
  }
  template <int kSlots, int kCount>
  __device__ void multiply_slots(int first) {
    constexpr int kPitch = 8 * kSlots + 4;
    float c[2][kTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.wait(i);
    constexpr int kAhead = 4;  // steps whose weights a lane holds
#pragma unroll
    for (int first_step = 0; first_step < G::kChunks; first_step += kAhead) {
      uint4 w[2][kAhead] = {};
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const char* from = ring_.memory(i) + g_ * G::kPitch + first_ * 2 + 64 * first_step;
#pragma unroll
        for (int k = 0; k < kAhead; ++k) w[i][k] = *reinterpret_cast<const uint4*>(from + 64 * k);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const uint4 b = operand_[t][first_step + k];
          mma(c[0][t], w[0][k].x, w[1][k].x, w[0][k].y, w[1][k].y, b.x, b.y);
          mma(c[1][t], w[0][k].z, w[1][k].z, w[0][k].w, w[1][k].w, b.z, b.w);
        }
      asm volatile("" ::: "memory");  // the next weights come after these
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.release();
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int e = 0; e < 2 * kCount; ++e)
        sums_[(warp_ * kRows + 8 * t + 2 * c_ + e % 2) * kPitch + 8 * (first + e / 2) + g_] =
            c[0][t][e] + c[1][t][e];
  }

  // Of all warps: this thread's outputs go to f(i, sum).
  template <int kSlots, class F>
  __device__ void each_output(F&& f) const {
    constexpr int kPitch = 8 * kSlots + 4;
    wait_for_warps<kAll>();
#pragma unroll
    for (int i = 0; i < Bias<kSlots>::kCount; ++i) {
      const int output = static_cast<int>(threadIdx.x) + i * kThreads;
      if (output >= 8 * kSlots * kRows) break;  // all lanes of a warp
      const float* from = sums_ + row_of(output) * kPitch + 8 * group_of(output) + output % 8;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kWarps; ++n) sum += from[n * kRows * kPitch];
      f(i, output, sum);
    }
  }
  // f(i, sum) of the block's kSlots groups of columns go out.
  template <int kSlots, class F>
  __device__ void finish(F&& f, int vector) {
    each_output<kSlots>([&](int i, int output, float sum) {
      write_output(f(i, sum), vector + static_cast<int>(blockIdx.x) * kSlots * kRows + output / 8);
    });
  }
  // Eight neighbouring lanes have the elements of a unit.
  __device__ void write_output(float element, int unit) const {
    const uint32_t pair = pack(element, __shfl_down_sync(~0U, element, 1));
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __shfl_sync(~0U, pair, lane_ / 8 * 8 + 2 * i);
    if (lane_ % 8 == 0) write_unit(units_ + unit, uint4{words[0], words[1], words[2], words[3]});
  }

  // The sums of this block's quarter of `down`, for itself and three neighbours, each of which has
  // kOut groups of the columns.
  __device__ void send_parts() const {
    float* to = parts_ + int64_t{blockIdx.x} * 8 * G::kUp * kRows;
    each_output<G::kUp>([&](int, int output, float sum) { write_part(to + output, sum); });
  }
  __device__ void add_parts(float bias) {
    const auto block = static_cast<int>(blockIdx.x);
    const float* from =
        parts_ + block / 4 * 4 * 8 * G::kUp * kRows + block % 4 * 8 * G::kOut * kRows + threadIdx.x;
    float parts[4];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < 4; ++i) parts[i] = read_part(from + i * 8 * G::kUp * kRows);
#pragma unroll
      for (const float part : parts) there = there && is_there(__float_as_uint(part));
    } while (!__all_sync(~0U, there));
    stream_ += (parts[0] + parts[1]) + (parts[2] + parts[3]) + bias;
    write_output(stream_, G::kEndUnits + own_ + static_cast<int>(threadIdx.x) / 8);
  }

  // Of decode_stack_rows_attention.cuh.
  __device__ void load_window(const Layer& w, Window& window) const;
  __device__ void attend(const Layer& w, const Window& window);
  __device__ void attend(const Layer& w);
  __device__ void await_qkv(Pair<G> pair, uint4 (&qkv)[3]) const;
  __device__ void keep(const Layer& w, Pair<G> pair, const uint4 (&qkv)[3]) const;

  const Call& call_;
  Receiver<G> ring_;
  const int lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
  const int g_ = lane_ / 4, c_ = lane_ % 4;
  const int first_ = warp_ * G::kSlice + 8 * c_;  // element of operand_
  float *sums_, *norm_;                           // norm_: the warp's own
  float2* stats_;
  uint4* units_;
  float* parts_;
  int own_;           // first unit of the block in a vector of D columns
  float stream_ = 0;  // the residual stream's element of this thread
  uint4 operand_[kTiles][G::kChunks];
};

}  // namespace megabyte::cuda::stack
