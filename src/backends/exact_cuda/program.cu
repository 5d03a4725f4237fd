#include "backends/exact_cuda/program.h"

#include <algorithm>
#include <utility>

#include "backends/cuda/copies.cuh"
#include "backends/cuda/vector.cuh"
#include "backends/exact_cuda/frequencies.cuh"
#include "backends/exact_cuda/products.cuh"
#include "backends/exact_cuda/rows.cuh"
#include "backends/exact_cuda/window_attention.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kRowsOfTile = 16;  // of products

// Kernels take up to 32,764 bytes of arguments.
constexpr size_t kMostSteps = 32000 / sizeof(Step);
constexpr size_t kBytesOfSteps = kMostSteps * sizeof(Step);
constexpr int kPiecesOfStep = static_cast<int>(sizeof(Step) / sizeof(int4));
struct Steps {
  int64_t rows, rows_of_block;
  int count, first_product, first_attention;  // where there is none: count
  Step steps[kMostSteps];
};
static_assert(sizeof(Steps) <= 32764);

// A kernel's argument, by its address; as memory, which threads read side by side, and not as a
// constant.
__device__ inline int4 load_argument(const int4* from) {
  int4 x;
  asm volatile("ld.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from));
  return x;
}

// Rows of a step that a block has.
struct Rows {
  int64_t first;
  int count;
};

// The same in all lanes, as the compiler then knows.
__device__ inline int warp_of_thread() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
}
__device__ inline int lane_of_thread() { return static_cast<int>(threadIdx.x) % 32; }

// f(row, element) of `width` elements of each row, a thread each.
template <class F>
__device__ void each_element(const Rows& rows, int width, const F& f) {
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < rows.count * width; at += kThreads) {
    const int row = at / width;
    f(rows.first + row, at - row * width);
  }
}

// Elements of a row that a lane holds in registers. What is hot is made for rows of 128 and of 512
// that are not normed; others go a slower way.
constexpr int kHeldOfRow = 8;

// Rows of the norm, half a warp each (run_row()); the first goes to row 0 of what is quantised.
__device__ void run_rows(const Rows& rows, const Norm& norm, bool norms, int dim, float* y,
                         const Int8Rows& out) {
  // Both halves of a warp go round equally often.
#pragma unroll 1
  for (int i = 2 * warp_of_thread(); i < rows.count; i += 2 * kWarps) {
    const int to = i + lane_of_thread() / kLanes;
    const bool real = to < rows.count;
    const Place place{rows.first + (real ? to : i), to, lane_of_thread() % kLanes, real};
    if (dim == kHeldOfRow * kLanes)
      run_row<kHeldOfRow, true>(place, norm, norms, dim, y, out);
    else if (dim == 4 * kHeldOfRow * kLanes)
      run_row<4 * kHeldOfRow, true>(place, {.x = norm.x}, false, dim, nullptr, out);
    else if (dim < kHeldOfRow * kLanes)
      run_row<kHeldOfRow, false>(place, norm, norms, dim, y, out);
    else
      run_row<0, false>(place, norm, norms, dim, y, out);
  }
}

// --- products. A product's weights come to the shared memory while the steps before it run: one of
// two places, used in turn.

constexpr int kMostWeights = 64 << 10;
constexpr int kMostOutputs = kMostWeights / kBlockColumns;

struct SharedWeights {
  int4 q[kMostWeights / 16];
  float scales[kMostOutputs], bias[kMostOutputs];
};

__device__ void fetch(const LinearStep& s, SharedWeights& to) {
  const int outputs = static_cast<int>(s.w.N), thread = static_cast<int>(threadIdx.x);
  const int pieces =
      padded_outputs(outputs) * blocks_across(static_cast<int>(s.w.K)) * (kBlockColumns / 16);
  const int4* from = reinterpret_cast<const int4*>(s.w.q);
#pragma unroll 4
  for (int i = thread; i < pieces; i += kThreads)
    cuda::copy_async(cuda::shared_address(&to.q[i]), from + i);
#pragma unroll 1
  for (int n = thread; n < outputs; n += kThreads) {
    cuda::copy_word_async(cuda::shared_address(&to.scales[n]), s.w.scales + n);
    if (s.bias != nullptr) cuda::copy_word_async(cuda::shared_address(&to.bias[n]), s.bias + n);
  }
}

// Rows that lie quantised in x, at most kRowsOfTile. A warp has two tiles of 8 outputs at a time.
__device__ void multiply(const LinearStep& s, const SharedWeights& weights, const Int8Rows& x,
                         const Rows& rows) {
  constexpr int kTiles = 2;
  const int lane = lane_of_thread(), outputs = static_cast<int>(s.w.N);
  const int across = blocks_across(static_cast<int>(s.w.K));
  const int4* from_x = reinterpret_cast<const int4*>(x.q) + lane;
#pragma unroll 1
  for (int first = warp_of_thread() * kTiles * 8; first < outputs; first += kWarps * kTiles * 8) {
    const int4* from_w = weights.q + first / 8 * across * 32 + lane;
    int sums[kTiles][4] = {};
#pragma unroll 2
    for (int k = 0; k < across; ++k) {
      const int4 low = from_x[k * 32];
      const int4 high = rows.count > 8 ? from_x[(across + k) * 32] : make_int4(0, 0, 0, 0);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int4 w = from_w[(j * across + k) * 32];
        multiply_tiles(sums[j], low.x, high.x, low.y, high.y, w.x, w.y);
        multiply_tiles(sums[j], low.z, high.z, low.w, high.w, w.z, w.w);
      }
    }
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int m = half * 8 + lane / 4;
      if (m >= rows.count) continue;
      float y[kTiles * 2];
#pragma unroll
      for (int i = 0; i < kTiles * 2; ++i) {
        const int n = first + i / 2 * 8 + lane % 4 * 2 + i % 2;  // there is room up to whole tiles
        y[i] = scaled(half == 0 ? sums[i / 2][i % 2] : sums[i / 2][2 + i % 2], x.scales[m],
                      weights.scales[n], s.bias != nullptr ? weights.bias[n] : 0.0f);
      }
      activate(s.act, y);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int n = first + j * 8 + lane % 4 * 2;
        float* to = s.y + (rows.first + m) * outputs + n;
        if (n < outputs) *reinterpret_cast<float2*>(to) = make_float2(y[2 * j], y[2 * j + 1]);
      }
    }
  }
}

// fetch_next() begins to fetch what the next product multiplies by.
template <class FetchNext>
__device__ void run_step(const LinearStep& s, const Rows& all, const SharedWeights& weights,
                         std::byte* memory, const FetchNext& fetch_next) {
  const auto terms = static_cast<int>(s.w.K);
  auto* q = reinterpret_cast<int8_t*>(memory);
  const Int8Rows x{
      q, reinterpret_cast<float*>(q + kRowsOfTile * blocks_across(terms) * kBlockColumns)};
#pragma unroll 1
  for (int done = 0; done < all.count; done += kRowsOfTile) {
    if (done > 0) __syncthreads();  // before x is written again
    const Rows rows{all.first + done, min(kRowsOfTile, all.count - done)};
    run_rows(rows, s.norm, s.norms, terms, s.w.N > 0 ? nullptr : s.y, x);
    if (s.w.N == 0) continue;
    if (done == 0) fetch_next();  // not before: what is read above does not queue behind it
    cuda::wait_for_copies<1>();
    __syncthreads();
    multiply(s, weights, x, rows);
  }
}
size_t memory_of(const LinearStep& s) {
  return kRowsOfTile * (static_cast<size_t>(blocks_across(s.w.K) * kBlockColumns) + sizeof(float));
}

// --- the others

__device__ void run_step(const RotaryStep& s, const Rows& rows) {
  const int pairs = 2 * s.heads * s.half;
  each_element(rows, pairs, [&](int64_t row, int i) {
    rotate_pair(s.qkv + row * 3 * pairs, i, s.half, s.turns);
  });
}

// A warp has a query.
__device__ void run_step(const AttentionStep& s, const Rows& rows, std::byte* memory) {
  const int warp = warp_of_thread();
  float* query = reinterpret_cast<float*>(memory) + warp * (kWindowDim + kMostSeen);
  const Team<1> team{.shared = nullptr};
#pragma unroll 1
  for (int i = warp; i < rows.count * s.queries.heads; i += kWarps) {
    const float* q;
    float* out;
    const Seen seen = find(s.queries, rows.first * s.queries.heads + i, team, &q, &out);
    attend_window(seen, q, s.scale, query, query + kWindowDim, out);
  }
}

// Brings what a step of attention will read closer, where it reads most of what there is.
__device__ void prefetch(const Step& step, int64_t first, int count) {
#if __CUDA_ARCH__ >= 900
  const Cached& a = step.attention.queries;
  if (threadIdx.x != 0 || 2 * a.visible < a.capacity) return;
  const int64_t size = int64_t{a.heads} * a.capacity * a.dim;
  const auto bytes = static_cast<unsigned>(count * step.rows * size * sizeof(float));
  for (const float* rows : {a.keys, a.values})
    asm volatile(
        "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(rows + first * step.rows * size),
        "r"(bytes));
#endif
}
constexpr size_t kMemoryOfAttention = size_t{kWarps} * (kWindowDim + kMostSeen) * sizeof(float);

__device__ void run_step(const EmbedStep& s, const Rows& rows) {
  const int width = s.patch * s.dim;
  each_element(rows, width, [&](int64_t row, int i) {
    const int token = s.tokens[row * s.patch + i / s.dim];
    // What is no symbol must not go unseen.
    float x =
        token < s.vocab ? s.table[int64_t{token} * s.dim + i % s.dim] : __int_as_float(0x7fffffff);
    if (s.positions != nullptr) x = __fadd_rn(x, s.positions[i]);
    s.out[row * width + i] = x;
  });
}

template <class T>
__device__ void copy(const CopyStep& s, const Rows& rows) {
  each_element(rows, s.width, [&](int64_t row, int i) {
    static_cast<T*>(s.to)[row * s.to_stride + i] =
        static_cast<const T*>(s.from)[row * s.from_stride + i];
  });
}
__device__ void run_step(const CopyStep& s, const Rows& rows) {
  if (s.element == sizeof(uint32_t))
    copy<uint32_t>(s, rows);
  else
    copy<uint16_t>(s, rows);
}

__device__ void run_step(const DecodeStep& s, const Rows& rows) {
#pragma unroll 1
  for (int i = warp_of_thread(); i < rows.count; i += kWarps) {
    const int64_t row = rows.first + i;
    decode_byte(s.logits + row * s.vocab, lane_of_thread(), s.decoders + row, s.bytes + row);
  }
}

__global__ void __launch_bounds__(kThreads, 1) program_kernel(const __grid_constant__ Steps all) {
  extern __shared__ int4 memory_of_block[];
  auto* weights = reinterpret_cast<SharedWeights*>(memory_of_block);
  auto* steps = reinterpret_cast<Step*>(weights + 2);
  auto* memory = reinterpret_cast<std::byte*>(steps) + kBytesOfSteps;
  // Read where they are, each would be waited for.
  for (int i = static_cast<int>(threadIdx.x); i < all.count * kPiecesOfStep; i += kThreads)
    reinterpret_cast<int4*>(steps)[i] = load_argument(reinterpret_cast<const int4*>(all.steps) + i);
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * all.rows_of_block;
  const auto count = static_cast<int>(min(all.rows_of_block, all.rows - first));
  int turn = 0, product = all.first_product;
  const auto fetch_next = [&](int place) {
    if (product < all.count) {
      fetch(steps[product].linear, weights[place]);
      product = steps[product].next;
    }
    cuda::commit_copies();
  };
  fetch_next(0);
  if (all.first_attention < all.count) prefetch(steps[all.first_attention], first, count);
#pragma unroll 1
  for (int i = 0; i < all.count; ++i) {
    const Step& step = steps[i];
    const Rows rows{first * step.rows, count * step.rows};
    switch (step.kind) {
      case Step::Kind::linear:
        run_step(step.linear, rows, weights[turn], memory, [&] { fetch_next(1 - turn); });
        if (step.linear.w.N > 0) turn = 1 - turn;
        break;
      case Step::Kind::rotary:
        run_step(step.rotary, rows);
        break;
      case Step::Kind::attention:
        run_step(step.attention, rows, memory);
        if (step.next < all.count) prefetch(steps[step.next], first, count);
        break;
      case Step::Kind::embed:
        run_step(step.embed, rows);
        break;
      case Step::Kind::copy:
        run_step(step.copy, rows);
        break;
      case Step::Kind::decode:
        run_step(step.decode, rows);
        break;
    }
    __syncthreads();
  }
}

size_t memory_of(const Step& step) {
  if (step.kind == Step::Kind::linear) return memory_of(step.linear);
  if (step.kind == Step::Kind::attention) return kMemoryOfAttention;
  return 0;
}

bool multiplies(const Step& step) { return step.kind == Step::Kind::linear && step.linear.w.N > 0; }

// Shared memory: the weights of two products and all steps; what a step needs beside them.
constexpr size_t kMemoryOfAll = 2 * sizeof(SharedWeights) + kBytesOfSteps;
constexpr size_t kMostMemory = size_t{48} << 10;

}  // namespace

bool Program::take(Step step, int64_t rows) {
  if (rows_ == 0 || rows % rows_ != 0 || !fits(step)) return false;
  if (steps_.empty()) context_.put_off([this] { launch(); });
  step.rows = static_cast<int>(rows / rows_);
  steps_.push_back(step);
  if (steps_.size() == kMostSteps) launch();
  return true;
}

bool Program::fits(const Step& step) const {
  // Before Hopper a block has not even room for the weights.
  if (kMemoryOfAll + kMostMemory > static_cast<size_t>(context_.shared_memory())) return false;
  if (memory_of(step) > kMostMemory) return false;
  if (step.kind == Step::Kind::attention) {
    const Cached& queries = step.attention.queries;
    return queries.dim == kWindowDim && queries.visible <= kMostSeen &&
           queries.capacity % kLanes == 0;
  }
  if (step.kind != Step::Kind::linear) return true;
  const LinearStep& s = step.linear;
  return s.w.N % 2 == 0 && reinterpret_cast<uintptr_t>(s.y) % sizeof(float2) == 0 &&
         (!s.norms || s.w.K != 4 * kHeldOfRow * kLanes) &&
         padded_outputs(s.w.N) * blocks_across(s.w.K) * kBlockColumns <= kMostWeights;
}

void Program::launch() {
  if (steps_.empty()) return;
  const std::vector<Step> steps = std::exchange(steps_, {});
  const int64_t blocks = std::min<int64_t>(rows_, context_.multiprocessors());
  const int64_t rows_of_block = std::min<int64_t>(cuda::ceil_div(rows_, blocks), kRowsOfTile);
  Steps all{.rows = rows_,
            .rows_of_block = rows_of_block,
            .count = static_cast<int>(steps.size()),
            .first_product = static_cast<int>(steps.size()),
            .first_attention = static_cast<int>(steps.size()),
            .steps = {}};
  size_t memory = 0;
  for (size_t i = steps.size(); i-- > 0;) {
    all.steps[i] = steps[i];
    if (multiplies(steps[i]))
      all.steps[i].next = std::exchange(all.first_product, static_cast<int>(i));
    if (steps[i].kind == Step::Kind::attention)
      all.steps[i].next = std::exchange(all.first_attention, static_cast<int>(i));
    memory = std::max(memory, memory_of(steps[i]));
  }
  memory += kMemoryOfAll;
  const cudaStream_t stream = context_.stream();
  cuda::check_cuda(cudaFuncSetAttribute(program_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(memory)),
                   "program");
  program_kernel<<<cuda::grid_of(cuda::ceil_div(rows_, rows_of_block)), kThreads, memory, stream>>>(
      all);
  cuda::check_launch("program");
}

}  // namespace megabyte::exact_cuda
