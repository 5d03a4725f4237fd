#include "backends/cuda/decode_stack.h"

#include <algorithm>

#include "backends/cuda/decode_stack_row_attention.cuh"
#include "backends/cuda/decode_stack_rows_attention.cuh"

namespace megabyte::cuda {
namespace {

using namespace stack;

// After the computing warps, the one that sends for weights. With several rows a whole warpgroup
// helps, which leaves the computing ones its registers, and its second warp sweeps.
template <class G>
inline constexpr int kHelpers = G::kRows == 1 ? 32 : 128;

template <int kRegisters>
__device__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

template <class G, bool kLong>
__global__ void __launch_bounds__(kThreads + kHelpers<G>, 1)
    stack_kernel(const __grid_constant__ Call call) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 memory[];
  start_next();
  char* ring_memory = reinterpret_cast<char*>(memory);
  const Ring<G> ring(ring_memory, ring_memory + G::kShared - 16 * G::kSlots);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  char* rest = ring_memory + G::kSlots * G::kSlotBytes;
  if constexpr (G::kRows == 1) {
    if (threadIdx.x >= kThreads) {
      send_weights<G, kLong>(call, Sender<G>(ring));
    } else {
      wait_for_previous();
      Row<G>(call, ring, rest).template run<kLong>();
    }
  } else if (const int helper = static_cast<int>(threadIdx.x) / 32 - kWarps; helper >= 0) {
    give_registers<72>();
    if (helper == 0) send_weights_of_rows<G, kLong>(call, Sender<G>(ring));
    if (helper == 1) sweep<G>(call);
  } else {
    take_registers<216>();
    wait_for_previous();
    Rows<G>(call, ring, rest).template run<kLong>();
  }
#endif
}

template <class G, bool kLong>
void launch(Context& context, const Call& call) {
  launch_overlapped<stack_kernel<G, kLong>>(context, "decode stack", dim3(kBlocks),
                                            kThreads + kHelpers<G>, G::kShared, call);
}

// The exchange keeps what the last blocks of a stage told each other, in the layout of G.
template <class G>
void launch(Context& context, Buffer& exchange, Call& call) {
  if (exchange.bytes() == 0) {
    exchange = allocate_on_device(G::kExchangeBytes);
    check_cuda(cudaMemsetAsync(exchange.data(), G::kClear, G::kExchangeBytes, context.stream()),
               "decode stack");
  }
  call.exchange = exchange.data();
  call.position < kShortWindow ? launch<G, false>(context, call) : launch<G, true>(context, call);
}

}  // namespace

bool StackKernel::run(const DecodeShape& shape, const DecodeStack& stack, const Tensor& x,
                      const Tensor& delta, const Tensor& sum, const Tensor& y) {
  // Was the code that runs here compiled for Hopper?
  static const bool hopper = OverlappedKernel(stack_kernel<RowGeometry<1024>, false>).waits();
  constexpr int kShared =
      std::max({RowGeometry<1024>::kShared, RowGeometry<2048>::kShared,
                RowsGeometry<1024, 2>::kShared, RowsGeometry<2048, 2>::kShared});
  const int64_t D = shape.dim();
  const auto count = static_cast<int64_t>(stack.blocks.size());
  // Blocks of threads wait for each other. All of them run at once, since each gets a
  // multiprocessor as soon as what came before is done, which waits for none of them.
  if (shape.batch > kMostRows || shape.linear || shape.head_dim != kHead ||
      (D != 1024 && D != 2048) || shape.first != 0 || shape.position >= shape.capacity ||
      y.dtype != DType::bf16 || count < 1 || count > kMostLayers || !hopper ||
      context_.multiprocessors() < kBlocks || context_.shared_memory() < kShared)
    return false;
  Call call{};
  for (int64_t i = 0; i < count; ++i) {
    const DecodeBlock& b = stack.blocks[static_cast<size_t>(i)];
    if (b.up_weight.shape[0] != 4 * D || !b.qkv_bias || b.keys.shape[2] != shape.capacity)
      return false;
    const auto weights = [](const Tensor& t) { return static_cast<const bf16*>(t.data); };
    call.layers[i] = {b.norm1_weight.as<float>(),
                      b.norm1_bias.as<float>(),
                      b.qkv_bias.as<float>(),
                      b.out_bias.as<float>(),
                      b.norm2_weight.as<float>(),
                      b.norm2_bias.as<float>(),
                      b.up_bias.as<float>(),
                      b.down_bias.as<float>(),
                      weights(b.qkv_weight),
                      weights(b.out_weight),
                      weights(b.up_weight),
                      weights(b.down_weight),
                      static_cast<bf16*>(b.keys.data),
                      static_cast<bf16*>(b.values.data)};
  }
  call.count = static_cast<int>(count);
  call.batch = static_cast<int>(shape.batch);
  call.position = static_cast<int>(shape.position);
  call.capacity = static_cast<int>(shape.capacity);
  call.activation = stack.activation;
  call.eps = static_cast<float>(stack.eps);
  call.x = x.as<float>();
  call.delta = static_cast<const bf16*>(delta.data);
  call.norm_weight = stack.norm_weight.as<float>();
  call.norm_bias = stack.norm_bias.as<float>();
  call.sum = sum.as<float>();
  call.y = static_cast<bf16*>(y.data);
  const int tiles = shape.batch == 1 ? 0 : shape.batch <= 8 ? 1 : 2;
  const auto run = [&](auto width) {
    constexpr int kD = decltype(width)::value;
    Buffer& exchange = exchanges_[kD == 1024 ? 0 : 1][tiles];
    if (tiles == 0)
      launch<RowGeometry<kD>>(context_, exchange, call);
    else if (tiles == 1)
      launch<RowsGeometry<kD, 1>>(context_, exchange, call);
    else
      launch<RowsGeometry<kD, 2>>(context_, exchange, call);
  };
  if (D == 1024)
    run(std::integral_constant<int, 1024>{});
  else
    run(std::integral_constant<int, 2048>{});
  return true;
}

}  // namespace megabyte::cuda
