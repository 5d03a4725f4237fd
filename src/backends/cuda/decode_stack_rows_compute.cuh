// The computing warps of decode_stack_rows.cuh.
#pragma once

#include "backends/cuda/decode_stack_rows.cuh"

namespace megabyte::cuda::stack {

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
    own_ = static_cast<int>(blockIdx.x) * G::kOut * kRows;
  }

  template <bool kLong>
  __device__ void run() {
    const uint32_t first = passed<G>(call_);
    uint4* const end = static_cast<uint4*>(call_.exchange) + G::kEndUnits;
    units_ = half_of<G>(call_, first);
    load_norm(call_.layers[0].norm1_weight, call_.layers[0].norm1_bias);
    if (mine()) {
      stream_ = input();
      write_output(stream_, units_ + G::kInputUnits + own_ + static_cast<int>(threadIdx.x) / 8);
    }
    for (int l = 0; l < call_.count; ++l) {
      const Layer& w = call_.layers[l];
      const bool last = l + 1 == call_.count;
      {
        Window window;
        if constexpr (!kLong) load_window(w, window);
        const Bias<G::kQkv> bias(w.qkv_bias);
        await(units_ + G::kInputUnits, false);
        norm<kWithSweeper, kThreads + 32>();
        load_norm(w.norm2_weight, w.norm2_bias);
        multiply<G::kQkv>();
        finish<G::kQkv>([&](int i, float sum) { return sum + bias.v[i]; }, G::kQkvUnits);
        if constexpr (kLong)
          attend(w);
        else
          attend(w, window);
      }
      {
        const Bias<G::kOut> bias(w.out_bias);
        await(units_ + G::kAttendedUnits, true);
        wait_for_warps<kWithSweeper, kThreads + 32>();  // and the sums' memory is free
        multiply<G::kOut>();
        finish<G::kOut>([&](int, float sum) { return stream_ += sum + bias.v[0]; },
                        G::kMiddleUnits);
      }
      {
        const Bias<G::kUp> bias(w.up_bias);
        await(units_ + G::kMiddleUnits, false);
        norm<kAll, kThreads>();
        const Layer& next = call_.layers[last ? l : l + 1];
        load_norm(last ? call_.norm_weight : next.norm1_weight,
                  last ? call_.norm_bias : next.norm1_bias);
        multiply<G::kUp>();
        finish<G::kUp>(
            [&](int i, float sum) { return activate_as(call_.activation, sum + bias.v[i]); },
            G::kHiddenUnits);
      }
      {
        const Bias<G::kOut> bias(w.down_bias);
        await(units_ + G::kHiddenUnits + static_cast<int>(blockIdx.x) % 4 * G::kVector, false);
        wait_for_warps<kAll>();
        multiply<G::kUp>();
        send_parts();
        uint4* const next = half_of<G>(call_, first + l + 1);
        if (mine()) add_parts(bias.v[0], last ? end : next + G::kInputUnits);
        units_ = next;
      }
    }
    if (mine() && row() < call_.batch) call_.sum[row() * D + column()] = stream_;
    if (blockIdx.x != 0) return;
    await(end, false);
    norm<kAll, kThreads>();
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      if (8 * t + g_ < call_.batch)
#pragma unroll
        for (int i = 0; i < G::kChunks; ++i)
          *reinterpret_cast<uint4*>(call_.y + (8 * t + g_) * D + first_ + 32 * i) = operand_[t][i];
    if (threadIdx.x == 0)
      *reinterpret_cast<uint32_t*>(static_cast<uint4*>(call_.exchange) + G::kPassed) =
          first + call_.count;
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
  __device__ void await(const uint4* vector, bool by_head) {
    constexpr int kPart = G::kSlice / 8 * kRows;
    const uint4* part = vector + warp_ * kPart;
    const uint4* sign = part + (lane_ + 1) * (kPart / 32) - 1;
    while (!__any_sync(~0U, is_there(read_unit(sign)))) {
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i) operand_[t][i] = kAbsent;
    bool there;
    do {
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const int group = 4 * i + c_, row = 8 * t + g_;
          read_unit_again(
              operand_[t][i],
              part + (by_head ? (group / 8 * kRows + row) * 8 + group % 8 : group * kRows + row));
        }
      there = true;
#pragma unroll
      for (int i = 0; i < G::kChunks; ++i)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) there = there && is_there(operand_[t][i]);
    } while (!__all_sync(~0U, there));
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

  // Of operand_, in its place. The tensor cores sum its elements (times ones) and their squares
  // (the diagonal of its product with itself), exactly but for the order.
  template <int kBarrier, int kCount>
  __device__ void norm() {
    constexpr uint32_t kOnes = 0x3F803F80;
    float sums[2][4] = {}, squares[kTiles][2][4] = {};
#pragma unroll
    for (int i = 0; i < G::kChunks; ++i) {
      const uint4 a = operand_[0][i], b = kTiles == 2 ? operand_[kTiles - 1][i] : uint4{};
      mma(sums[0], a.x, b.x, a.y, b.y, kOnes, kOnes);
      mma(sums[1], a.z, b.z, a.w, b.w, kOnes, kOnes);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 x = operand_[t][i];
        mma(squares[t][0], a.x, b.x, a.y, b.y, x.x, x.y);
        mma(squares[t][1], a.z, b.z, a.w, b.w, x.z, x.w);
      }
    }
    if (c_ == g_ / 2)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float square[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) square[e] = squares[t][0][2 * t + e] + squares[t][1][2 * t + e];
        stats_[warp_ * kRows + 8 * t + g_] = {sums[0][2 * t] + sums[1][2 * t], square[g_ % 2]};
      }
    wait_for_copies<0>();
    wait_for_warps<kBarrier, kCount>();
    float shift[kTiles], scale[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float sum = 0, square = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        const float2 stats = stats_[i * kRows + 8 * t + g_];
        sum += stats.x;
        square += stats.y;
      }
      const float mean = sum * (1.0F / D);
      scale[t] = rsqrtf(fmaxf(square * (1.0F / D) - mean * mean, 0) + call_.eps);
      shift[t] = -mean * scale[t];
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
        for (int e = 0; e < 8; ++e) x[e] = fmaf(fmaf(x[e], scale[t], shift[t]), weight[e], bias[e]);
        operand_[t][i] = pack8(x);
      }
    }
  }

  // The next kSlots slots' rows times operand_: each warp's sums, to sums_. All warps are past the
  // sums before.
  template <int kSlots>
  __device__ void multiply() {
    constexpr int kAtOnce = 4;
#pragma unroll
    for (int i = 0; i + kAtOnce <= kSlots; i += kAtOnce) multiply_slots<kSlots, kAtOnce>(i);
    if constexpr (kSlots % kAtOnce != 0)
      multiply_slots<kSlots, kSlots % kAtOnce>(kSlots - kSlots % kAtOnce);
  }
  template <int kSlots, int kCount>
  __device__ void multiply_slots(int first) {
    constexpr int kPitch = 8 * kSlots + 4, kPairs = (kCount + 1) / 2;
    float c[kPairs][2][kTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.wait(i);
    constexpr int kAhead = 4;  // steps whose weights a lane holds
#pragma unroll
    for (int first_step = 0; first_step < G::kChunks; first_step += kAhead) {
      uint4 w[2 * kPairs][kAhead] = {};
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const char* from = ring_.memory(i) + g_ * G::kPitch + first_ * 2 + 64 * first_step;
#pragma unroll
        for (int k = 0; k < kAhead; ++k) w[i][k] = *reinterpret_cast<const uint4*>(from + 64 * k);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int p = 0; p < kPairs; ++p)
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            const uint4 a = w[2 * p][k], b = w[2 * p + 1][k], x = operand_[t][first_step + k];
            mma(c[p][0][t], a.x, b.x, a.y, b.y, x.x, x.y);
            mma(c[p][1][t], a.z, b.z, a.w, b.w, x.z, x.w);
          }
      asm volatile("" ::: "memory");  // the next weights come after these
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.release();
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < kCount; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = i % 2 * 2 + e;
          sums_[(warp_ * kRows + 8 * t + 2 * c_ + e) * kPitch + 8 * (first + i) + g_] =
              c[i / 2][0][t][at] + c[i / 2][1][t][at];
        }
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
      write_output(f(i, sum),
                   units_ + vector + static_cast<int>(blockIdx.x) * kSlots * kRows + output / 8);
    });
  }
  // Eight neighbouring lanes have the elements of a unit.
  __device__ void write_output(float element, uint4* unit) const {
    const uint32_t pair = pack(element, __shfl_down_sync(~0U, element, 1));
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __shfl_sync(~0U, pair, lane_ / 8 * 8 + 2 * i);
    if (lane_ % 8 == 0) write_unit(unit, uint4{words[0], words[1], words[2], words[3]});
  }

  // The sums of this block's quarter of `down`, for itself and three neighbours, each of which has
  // kOut groups of the columns.
  __device__ float* parts() const { return reinterpret_cast<float*>(units_ + G::kPartUnits); }
  __device__ void send_parts() const {
    float* to = parts() + int64_t{blockIdx.x} * 8 * G::kUp * kRows;
    each_output<G::kUp>([&](int, int output, float sum) { write_part(to + output, sum); });
  }
  __device__ void add_parts(float bias, uint4* to) {
    const auto block = static_cast<int>(blockIdx.x);
    const float* from = parts() + block / 4 * 4 * 8 * G::kUp * kRows +
                        block % 4 * 8 * G::kOut * kRows + threadIdx.x;
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
    write_output(stream_, to + own_ + static_cast<int>(threadIdx.x) / 8);
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
  uint4* units_;      // of this Transformer block
  int own_;           // first unit of the block in a vector of D columns
  float stream_ = 0;  // the residual stream's element of this thread
  uint4 operand_[kTiles][G::kChunks];
};

}  // namespace megabyte::cuda::stack
