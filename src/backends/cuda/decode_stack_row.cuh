// All blocks of a stage at one new position of one row.
//
// One block of threads on (almost) every multiprocessor owns fixed rows of every matrix, which come
// through the ring. Its warps share the summed index: each multiplies its piece of the vector with
// the same piece of every row.
//
// The number of the Transformer block since the exchange was made is the tag of its units.
#pragma once

#include "backends/cuda/decode_stack_exchange.cuh"
#include "backends/cuda/decode_stack_ring.cuh"

namespace megabyte::cuda::stack {

template <int D_>
struct RowGeometry : Deal<D_> {
  using Deal<D_>::D, Deal<D_>::kSlice;
  static constexpr int kRows = 1;
  static constexpr int kPacks = kSlice / 128;  // of 4 elements of a lane
  static constexpr int kSlots = D == 1024 ? 11 : 6, kOnTheirWay = 2;
  static constexpr int kSplits = kBlocks / Deal<D_>::kHeads;
  // Shared memory after the ring.
  static constexpr int kPieceBytes = std::max(2 * kSlice, 3 * 2 * kHead);
  static constexpr int kSums = kWarps * 8 * Deal<D_>::kUp;  // floats
  static constexpr int kAnswer = kHead + 4;                 // floats of a warp's answer
  static constexpr int kShared = kSlots * Deal<D_>::kSlotBytes + 2 * kWarps * kPieceBytes +
                                 2 * 4 * kSums + 4 * kWarps * kAnswer + 2 * 8 * kWarps +
                                 16 * kSlots;
  // Where the vectors are in the exchange, in units, after a line for a count of blocks.
  static constexpr int kQkvUnits = 0, kAttendedUnits = 3 * D / 2, kHiddenUnits = 2 * D,
                       kDownUnits = 4 * D, kPartUnits = 9 * D / 2,
                       kScaleUnits = kPartUnits + kBlocks * kHead / 2,
                       kUnits = kScaleUnits + kBlocks;
  // Units that go out together share a line, and no other.
  static constexpr int kLine = 128, kExchangeBytes = kLine + 8 * kUnits, kClear = 0;
};

// Keys of a head that this block attends to: position p belongs to block p / each of the head's.
template <class G>
struct Share {
  int first, count;  // of the cache
  bool newest;       // and the new position

  __device__ explicit Share(int position) {
    const int each = (position + G::kSplits) / G::kSplits;
    first = static_cast<int>(blockIdx.x) % G::kSplits * each;
    count = max(0, min(each, position - first));
    newest = first <= position && position < first + each;
  }
  __device__ int slots() const { return (count + G::kKeys - 1) / G::kKeys; }
};

// The order in which the others use the weights.
template <class G, bool kLong>
__device__ void send_weights(const Call& call, Sender<G> sender) {
  constexpr int D = G::D;
  const int block = static_cast<int>(blockIdx.x);
  const Share<G> share(call.position);
  for (int l = 0; l < call.count; ++l) {
    const Layer& w = call.layers[l];
    sender.send_rows(w.qkv + int64_t{block} * 8 * G::kQkv * D, D, G::kQkv);
    if constexpr (kLong) {
      if (l == 0) wait_for_previous();  // it may have written keys
      const int64_t at = (int64_t{block / G::kSplits} * call.capacity + share.first) * kHead;
      sender.send_cache(w.keys + at, w.values + at, share.count);
    }
    sender.send_rows(w.out + int64_t{block} * 8 * G::kOut * D, D, G::kOut);
    sender.send_rows(w.up + int64_t{block} * 8 * G::kUp * D, D, G::kUp);
    for (int quarter = 0; quarter < 4; ++quarter)
      sender.send_rows(w.down + int64_t{block} * 8 * G::kOut * 4 * D + quarter * D, 4 * D, G::kOut);
  }
}

// A lane of a computing warp, and what it has of the vectors: elements warp * kSlice + 128 i +
// 4 lane and the three after it, for i < kPacks.
template <class G>
class Row {
 public:
  static constexpr int D = G::D;
  using Pieces = uint2[G::kPacks];
  using Operand = uint4[G::kChunks];  // B of a product's steps

  __device__ Row(const Call& call, const Ring<G>& ring, char* memory) : call_(call), ring_(ring) {
    piece_ = memory + warp_ * G::kPieceBytes;
    keys_ = memory + (kWarps + warp_) * G::kPieceBytes;
    sums_ = reinterpret_cast<float*>(memory + 2 * kWarps * G::kPieceBytes);
    answers_ = sums_ + 2 * G::kSums;
    stats_ = reinterpret_cast<float2*>(answers_ + kWarps * G::kAnswer);
    passed_ = static_cast<unsigned*>(call.exchange);
    units_ = reinterpret_cast<uint64_t*>(static_cast<char*>(call.exchange) + G::kLine);
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(tag_) : "l"(passed_));
  }

  template <bool kLong>
  __device__ void run() {
    load_norm(call_.layers[0].norm1_weight, call_.layers[0].norm1_bias);
    Pieces delta = {};
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(call_.x + mine() + 128 * i));
      x_[i][0] = v.x, x_[i][1] = v.y, x_[i][2] = v.z, x_[i][3] = v.w;
      if (call_.delta != nullptr)
        delta[i] = __ldcg(reinterpret_cast<const uint2*>(call_.delta + mine() + 128 * i));
    }
    for (int l = 0; l < call_.count; ++l) {
      const Layer& w = call_.layers[l];
      Window window;
      if constexpr (!kLong) load_window(w, window);
      float2 bias = bias_of<G::kQkv>(w.qkv_bias);
      if (l > 0) await(vector_at(G::kDownUnits), tag_, delta);
      ++tag_;
      add(delta);
      norm<0>();
      load_norm(w.norm2_weight, w.norm2_bias);
      multiply<G::kQkv>(sums_);
      finish<G::kQkv, kEven>(sums_, bias, G::kQkvUnits, Activation::none);

      bias = bias_of<G::kOut>(w.out_bias);
      if constexpr (kLong) {
        attend_to_share(w);
        combine_shares();
      } else {
        attend(w, window);
      }
      multiply<G::kOut>(sums_ + G::kSums);
      finish<G::kOut, kOdd>(sums_ + G::kSums, bias, G::kAttendedUnits, Activation::none);

      bias = bias_of<G::kUp>(w.up_bias);
      await(vector_at(G::kAttendedUnits), tag_, delta);
      add(delta);
      norm<1>();
      const bool last = l + 1 == call_.count;
      const Layer& next = call_.layers[last ? l : l + 1];
      load_norm(last ? call_.norm_weight : next.norm1_weight,
                last ? call_.norm_bias : next.norm1_bias);
      multiply<G::kUp>(sums_);
      finish<G::kUp, kEven>(sums_, bias, G::kHiddenUnits, call_.activation);

      bias = bias_of<G::kOut>(w.down_bias);
      multiply_hidden(sums_ + G::kSums);
      finish<G::kOut, kOdd>(sums_ + G::kSums, bias, G::kDownUnits, Activation::none);
    }
    if (blockIdx.x != 0) return;
    await(vector_at(G::kDownUnits), tag_, delta);
    add(delta);
    norm<0>();
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const int at = mine() + 128 * i;
      *reinterpret_cast<float4*>(call_.sum + at) = float4{x_[i][0], x_[i][1], x_[i][2], x_[i][3]};
      *reinterpret_cast<uint2*>(call_.y + at) = piece(piece_, i);
    }
    if (threadIdx.x == 0) *passed_ = tag_;
  }

 private:
  // Keys (as A of a product: key g) and values (of a lane's elements) of a short window.
  struct Window {
    uint4 keys[2 * G::kPacks][2];
    uint2 values[G::kPacks][kShortWindow];
  };

  __device__ int mine() const { return warp_ * G::kSlice + 4 * lane_; }
  // Where piece i % kPacks of part i / kPacks of a vector is, whose parts have D elements.
  __device__ auto vector_at(int vector) const {
    const uint64_t* first = units_ + vector + mine() / 2;
    return [first](int i) { return first + i / G::kPacks * (D / 2) + i % G::kPacks * 64; };
  }
  __device__ uint2& piece(char* memory, int i) const {
    return *reinterpret_cast<uint2*>(memory + (128 * i + 4 * lane_) * 2);
  }
  __device__ int64_t head_at(int head) const { return int64_t{head} * call_.capacity * kHead; }

  __device__ void add(const Pieces& delta) {
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float2 a = unpack(delta[i].x), b = unpack(delta[i].y);
      x_[i][0] += a.x, x_[i][1] += a.y, x_[i][2] += b.x, x_[i][3] += b.y;
    }
  }

  // Long before they are needed.
  __device__ void load_norm(const float* weight, const float* bias) {
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      norm_weight_[i] = weights_early(weight + mine() + 128 * i);
      norm_bias_[i] = weights_early(bias + mine() + 128 * i);
    }
  }
  template <int kSlots>
  __device__ float2 bias_of(const float* bias) const {
    return threadIdx.x < 4 * kSlots ? pair_early(bias + blockIdx.x * 8 * kSlots + 2 * threadIdx.x)
                                    : float2{};
  }

  // Leaves the norm of x in piece_ and operand_. kHalf: of stats_, another than the norm before
  // has, whose readers need not be waited for then.
  template <int kHalf>
  __device__ void norm() {
    float2* const shared_stats = stats_ + kHalf * kWarps;
    const float pivot = __shfl_sync(~0U, x_[0][0], 0);
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float off = x_[i][e] - pivot;
        sum += off;
        squares = fmaf(off, off, squares);
      }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0U, sum, offset);
      squares += __shfl_xor_sync(~0U, squares, offset);
    }
    // Mean, and squares about it, of each warp's piece; then of all.
    constexpr float kShare = 1.0F / G::kSlice;
    if (lane_ == 0) shared_stats[warp_] = {pivot + sum * kShare, squares - sum * sum * kShare};
    wait_for_warps<kAll>();
    float2 stats[kWarps];
    float mean = 0, within = 0, between = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      stats[i] = shared_stats[i];
      mean += stats[i].x;
      within += stats[i].y;
    }
    mean *= 1.0F / kWarps;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) between = fmaf(stats[i].x - mean, stats[i].x - mean, between);
    const float variance = fmaxf(within + between * G::kSlice, 0) * (1.0F / D);
    const float rstd = rsqrtf(variance + call_.eps);
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float4 w = norm_weight_[i], b = norm_bias_[i];
      piece(piece_, i) = {
          pack((x_[i][0] - mean) * rstd * w.x + b.x, (x_[i][1] - mean) * rstd * w.y + b.y),
          pack((x_[i][2] - mean) * rstd * w.z + b.z, (x_[i][3] - mean) * rstd * w.w + b.w)};
    }
    __syncwarp();
    load_operand<false>(piece_);
  }

  // The piece in `memory` as B: in the first column or in all.
  template <bool kEverywhere>
  __device__ void load_operand(const char* memory) {
#pragma unroll
    for (int c = 0; c < G::kChunks; ++c)
      operand_[c] = kEverywhere || g_ == 0
                        ? *reinterpret_cast<const uint4*>(memory + (32 * c + 8 * c_) * 2)
                        : uint4{};
    __syncwarp();
  }

  // Adds the next kCount slots' rows times the operand: the first 8 to c[0], the next to c[2] (in
  // the lanes c_ = 0).
  template <int kCount>
  __device__ void multiply_slots(float (&c)[4]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.wait(i);
    uint4 w[2][G::kChunks] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const char* from = ring_.memory(i) + weights_;
#pragma unroll
      for (int k = 0; k < G::kChunks; ++k) w[i][k] = *reinterpret_cast<const uint4*>(from + 64 * k);
    }
    float other[4] = {};
#pragma unroll
    for (int k = 0; k < G::kChunks; ++k) {
      const uint4 b = operand_[k];
      mma(c, w[0][k].x, w[1][k].x, w[0][k].y, w[1][k].y, b.x, b.y);
      mma(other, w[0][k].z, w[1][k].z, w[0][k].w, w[1][k].w, b.z, b.w);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) ring_.release();
    c[0] += other[0];
    c[2] += other[2];
  }

  template <int kSlots>
  __device__ void multiply(float* sums) {
#pragma unroll
    for (int i = 0; i + 1 < kSlots; i += 2) {
      float c[4] = {};
      multiply_slots<2>(c);
      store<kSlots>(sums, i, c);
    }
    if constexpr (kSlots % 2 == 1) {
      float c[4] = {};
      multiply_slots<1>(c);
      store<kSlots>(sums, kSlots - 1, c);
    }
  }
  template <int kSlots>
  __device__ void store(float* sums, int i, const float (&c)[4]) const {
    if (c_ != 0) return;
    sums[(warp_ * kSlots + i) * 8 + g_] = c[0];
    if (i + 1 < kSlots) sums[(warp_ * kSlots + i + 1) * 8 + g_] = c[2];
  }

  // The rows of `down`, quarter by quarter.
  __device__ void multiply_hidden(float* sums) {
    uint2 hidden[4 * G::kPacks];
    await(vector_at(G::kHiddenUnits), tag_, hidden);
    float c[4] = {};
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int i = 0; i < G::kPacks; ++i) piece(piece_, i) = hidden[q * G::kPacks + i];
      __syncwarp();
      load_operand<false>(piece_);
      static_assert(G::kOut <= 2);
      multiply_slots<G::kOut>(c);
    }
    store<G::kOut>(sums, 0, c);
  }

  // The warps' sums of 8 kSlots rows and their bias, activated, go out.
  template <int kSlots, int kBarrier>
  __device__ void finish(const float* sums, float2 bias, int vector, Activation activation) const {
    if (warp_ > 0) return tell_first_warp<kBarrier>();
    wait_for_warps<kBarrier>();
    if (lane_ < 4 * kSlots) {
      float2 sum = bias;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        const float2 part = *reinterpret_cast<const float2*>(sums + i * 8 * kSlots + 2 * lane_);
        sum.x += part.x;
        sum.y += part.y;
      }
      write_unit(units_ + vector + static_cast<int>(blockIdx.x) * 4 * kSlots + lane_,
                 pack(activate_as(activation, sum.x), activate_as(activation, sum.y)), tag_);
    }
    __syncwarp();
  }

  // Of decode_stack_row_attention.cuh.
  __device__ void load_window(const Layer& w, Window& window) const;
  __device__ void attend(const Layer& w, const Window& window);
  __device__ void attend_to_share(const Layer& w);
  __device__ void combine_shares();

  const Call& call_;
  Receiver<G> ring_;
  const int lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
  const int g_ = lane_ / 4, c_ = lane_ % 4;
  char *piece_, *keys_;  // the warp's own
  float *sums_, *answers_;
  float2* stats_;
  const int weights_ = g_ * G::kPitch + (warp_ * G::kSlice + c_ * 8) * 2;  // of a slot
  unsigned* passed_;  // Transformer blocks since the exchange was made
  uint64_t* units_;
  uint32_t tag_;
  float x_[G::kPacks][4];  // the residual stream, alike in all blocks
  float4 norm_weight_[G::kPacks], norm_bias_[G::kPacks];
  Operand operand_;
};

}  // namespace megabyte::cuda::stack
