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
      read_input();
      write_output(stream_, units_ + G::kInputUnits + own_);
    }
    for (int l = 0; l < call_.count; ++l) {
      const Layer& w = call_.layers[l];
      const bool last = l + 1 == call_.count;
      {
        Window window;
        if constexpr (!kLong) load_window(w, window);
        const float4 bias = load_bias<G::kQkv>(w.qkv_bias);
        await(units_ + G::kInputUnits, false);
        norm<kWithSweeper, kThreads + 32>();
        load_norm(w.norm2_weight, w.norm2_bias);
        multiply<G::kQkv>();
        finish<G::kQkv>(G::kQkvUnits, bias, [](float sum) { return sum; });
        if constexpr (kLong)
          attend(w);
        else
          attend(w, window);
      }
      {
        const float4 bias = load_bias<G::kOut>(w.out_bias);
        await(units_ + G::kAttendedUnits, true);
        wait_for_warps<kWithSweeper, kThreads + 32>();  // and the sums' memory is free
        multiply<G::kOut>();
        each_output<G::kOut>([&](const float(&sums)[4]) {
          add_to_stream(sums, bias);
          write_output(stream_, units_ + G::kMiddleUnits + own_);
        });
      }
      {
        const float4 bias = load_bias<G::kUp>(w.up_bias);
        await(units_ + G::kMiddleUnits, false);
        norm<kAll, kThreads>();
        const Layer& next = call_.layers[last ? l : l + 1];
        load_norm(last ? call_.norm_weight : next.norm1_weight,
                  last ? call_.norm_bias : next.norm1_bias);
        multiply<G::kUp>();
        finish<G::kUp>(G::kHiddenUnits, bias,
                       [&](float sum) { return activate_as(call_.activation, sum); });
      }
      {
        const float4 bias = load_bias<G::kOut>(w.down_bias);
        await(units_ + G::kHiddenUnits + static_cast<int>(blockIdx.x) % 4 * G::kVector, false);
        wait_for_warps<kAll>();
        multiply<G::kUp>();
        send_parts();
        uint4* const next = half_of<G>(call_, first + l + 1);
        if (mine()) add_parts(bias, last ? end : next + G::kInputUnits);
        units_ = next;
      }
    }
    if (mine() && row() < call_.batch)
      *reinterpret_cast<float4*>(call_.sum + at()) =
          float4{stream_[0], stream_[1], stream_[2], stream_[3]};
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
  // A thread has at most one output of a product, 4 columns of a row: output o of a block is half
  // o % 2 of a group of 8 columns, of row o / 2 % kRows. Where a block has kOut groups, it is the
  // thread's piece of the residual stream.
  template <int kSlots>
  __device__ static bool has_output() {
    static_assert(2 * kSlots * kRows <= kThreads);
    return threadIdx.x < 2 * kSlots * kRows;
  }
  __device__ static int group() { return static_cast<int>(threadIdx.x) / (2 * kRows); }
  __device__ static int row() { return static_cast<int>(threadIdx.x) / 2 % kRows; }
  __device__ static bool mine() { return has_output<G::kOut>(); }
  template <int kSlots>
  __device__ static int column() {
    return (static_cast<int>(blockIdx.x) * kSlots + group()) * 8 +
           static_cast<int>(threadIdx.x) % 2 * 4;
  }
  __device__ static int64_t at() { return int64_t{row()} * D + column<G::kOut>(); }
  // Long before it is needed.
  template <int kSlots>
  __device__ static float4 load_bias(const float* bias) {
    return has_output<kSlots>() ? weights_early(bias + column<kSlots>()) : float4{};
  }

  // This thread's elements of what goes into the first block.
  __device__ void read_input() {
    if (row() >= call_.batch) return;
    const float4 x = __ldcg(reinterpret_cast<const float4*>(call_.x + at()));
    stream_[0] = x.x, stream_[1] = x.y, stream_[2] = x.z, stream_[3] = x.w;
    if (call_.delta == nullptr) return;
    const uint2 delta = __ldcg(reinterpret_cast<const uint2*>(call_.delta + at()));
    const float2 a = unpack(delta.x), b = unpack(delta.y);
    stream_[0] += a.x, stream_[1] += a.y, stream_[2] += b.x, stream_[3] += b.y;
  }
  __device__ void add_to_stream(const float (&x)[4], float4 bias) {
    stream_[0] += x[0] + bias.x;
    stream_[1] += x[1] + bias.y;
    stream_[2] += x[2] + bias.z;
    stream_[3] += x[3] + bias.w;
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
    for (int i = 0; i < G::kSlice; i += 128) {
      const int at = i + 4 * lane_;
      copy_async(shared_address(norm_ + at), weight + warp_ * G::kSlice + at);
      copy_async(shared_address(norm_ + G::kSlice + at), bias + warp_ * G::kSlice + at);
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
        const float even = squares[t][0][2 * t] + squares[t][1][2 * t],
                    odd = squares[t][0][2 * t + 1] + squares[t][1][2 * t + 1];
        stats_[warp_ * kRows + 8 * t + g_] = {sums[0][2 * t] + sums[1][2 * t],
                                              g_ % 2 == 0 ? even : odd};
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
    constexpr int kAtOnce = D == 1024 ? 4 : 2;
#pragma unroll
    for (int i = 0; i + kAtOnce <= kSlots; i += kAtOnce) multiply_slots<kSlots, kAtOnce>(i);
    if constexpr (kSlots % kAtOnce != 0)
      multiply_slots<kSlots, kSlots % kAtOnce>(kSlots - kSlots % kAtOnce);
  }
  template <int kSlots, int kCount>
  __device__ void multiply_slots(int first) {
    float c[kCount][2][4] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.wait(i);
    constexpr int kAhead = 4;  // steps whose weights a lane holds
#pragma unroll
    for (int first_step = 0; first_step < G::kChunks; first_step += kAhead) {
      uint4 w[kCount][kAhead];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const char* from = ring_.memory(i) + g_ * G::kPitch + first_ * 2 + 64 * first_step;
#pragma unroll
        for (int k = 0; k < kAhead; ++k) w[i][k] = *reinterpret_cast<const uint4*>(from + 64 * k);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const uint4 a = operand_[0][first_step + k],
                    b = kTiles == 2 ? operand_[kTiles - 1][first_step + k] : uint4{};
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          mma(c[i][0], a.x, b.x, a.y, b.y, w[i][k].x, w[i][k].y);
          mma(c[i][1], a.z, b.z, a.w, b.w, w[i][k].z, w[i][k].w);
        }
      }
      asm volatile("" ::: "memory");  // the next weights come after these
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.release();
#pragma unroll
    for (int i = 0; i < kCount; ++i)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float* to = sums_ + (warp_ * kRows + 8 * t + g_) * G::template kSumPitch<kSlots> +
                    8 * (first + i) + 2 * c_;
        *reinterpret_cast<float2*>(to) = {c[i][0][2 * t] + c[i][1][2 * t],
                                          c[i][0][2 * t + 1] + c[i][1][2 * t + 1]};
      }
  }

  // Of all warps: this thread's output goes to f.
  template <int kSlots, class F>
  __device__ void each_output(F&& f) const {
    constexpr int kPitch = G::template kSumPitch<kSlots>;
    wait_for_warps<kAll>();
    if (!has_output<kSlots>()) return;
    const float* from = sums_ + row() * kPitch + 8 * group() + threadIdx.x % 2 * 4;
    float4 parts[kWarps];
#pragma unroll
    for (int n = 0; n < kWarps; ++n)
      parts[n] = *reinterpret_cast<const float4*>(from + n * kRows * kPitch);
    float sums[4] = {};
#pragma unroll
    for (const float4& part : parts) {
      sums[0] += part.x;
      sums[1] += part.y;
      sums[2] += part.z;
      sums[3] += part.w;
    }
    f(sums);
  }
  // f(sum) of the block's kSlots groups of columns go out.
  template <int kSlots, class F>
  __device__ void finish(int vector, float4 bias, F&& f) const {
    each_output<kSlots>([&](const float(&sums)[4]) {
      write_output(
          {f(sums[0] + bias.x), f(sums[1] + bias.y), f(sums[2] + bias.z), f(sums[3] + bias.w)},
          units_ + vector + static_cast<int>(blockIdx.x) * kSlots * kRows);
    });
  }
  // Of the block's units, half a unit each.
  __device__ static void write_output(const float (&x)[4], uint4* units) {
    write_half(reinterpret_cast<uint2*>(units) + threadIdx.x, {pack(x[0], x[1]), pack(x[2], x[3])});
  }

  // The sums of this block's quarter of `down`, for itself and three neighbours, each of which has
  // kOut groups of the columns.
  __device__ uint4* parts_of(int block) const {
    return units_ + G::kPartUnits + block * 2 * G::kUp * kRows + threadIdx.x;
  }
  __device__ void send_parts() const {
    each_output<G::kUp>([&](const float(&sums)[4]) {
      write_unit(parts_of(static_cast<int>(blockIdx.x)), reinterpret_cast<const uint4&>(sums));
    });
  }
  __device__ void add_parts(float4 bias, uint4* to) {
    const auto block = static_cast<int>(blockIdx.x);
    const uint4* from = parts_of(block / 4 * 4) + block % 4 * 2 * G::kOut * kRows;
    uint4 parts[4];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < 4; ++i) parts[i] = read_unit(from + i * 2 * G::kUp * kRows);
#pragma unroll
      for (const uint4& part : parts) there = there && is_there(part);
    } while (!there);
    float sums[4] = {};
#pragma unroll
    for (const uint4& part : parts) {
      sums[0] += __uint_as_float(part.x);
      sums[1] += __uint_as_float(part.y);
      sums[2] += __uint_as_float(part.z);
      sums[3] += __uint_as_float(part.w);
    }
    add_to_stream(sums, bias);
    write_output(stream_, to + own_);
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
  uint4* units_;          // of this Transformer block
  int own_;               // first unit of the block in a vector of D columns
  float stream_[4] = {};  // the residual stream's elements of this thread
  uint4 operand_[kTiles][G::kChunks];
};

}  // namespace megabyte::cuda::stack
