#include "backends/cuda/decode_stack.h"

#include <algorithm>

#include "backends/cuda/decode_stack.cuh"

namespace megabyte::cuda {
namespace {

using namespace stack;

template <int D, bool kLong>
__global__ void __launch_bounds__(kThreads + 32, 1)
    stack_kernel(const __grid_constant__ Call call) {
#if __CUDA_ARCH__ >= 900
  using G = Geometry<D>;
  extern __shared__ uint4 memory[];
  start_next();
  char* ring_memory = reinterpret_cast<char*>(memory);
  char* rest = ring_memory + G::kSlots * G::kSlotBytes;
  const Ring<G> ring(ring_memory, ring_memory + G::kShared - 16 * G::kSlots);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  if (threadIdx.x >= kThreads) {
    send_weights<G, kLong>(call, ring);
  } else {
    wait_for_previous();
    Computer<G>(call, ring, rest).template run<kLong>();
  }
#endif
}

template <int D, bool kLong>
void launch(Context& context, const Call& call) {
  launch_overlapped<stack_kernel<D, kLong>>(context, "decode stack", dim3(kBlocks), kThreads + 32,
                                            Geometry<D>::kShared, call);
}

}  // namespace

bool StackKernel::run(const DecodeShape& shape, const DecodeStack& stack, const Tensor& x,
                      const Tensor& delta, const Tensor& sum, const Tensor& y) {
  constexpr size_t kLine = 128;  // units that go out together share a line, and no other
  // Was the code that runs here compiled for Hopper?
  static const bool hopper = OverlappedKernel(stack_kernel<1024, false>).waits();
  const int64_t D = shape.dim();
  const auto count = static_cast<int64_t>(stack.blocks.size());
  // Blocks of threads wait for each other. All of them run at once, since each gets a
  // multiprocessor as soon as what came before is done, which waits for none of them.
  if (shape.batch != 1 || shape.linear || shape.head_dim != kHead || (D != 1024 && D != 2048) ||
      shape.first != 0 || shape.position >= shape.capacity || y.dtype != DType::bf16 || count < 1 ||
      count > kMostLayers || !hopper || context_.multiprocessors() < kBlocks ||
      context_.shared_memory() < std::max(Geometry<1024>::kShared, Geometry<2048>::kShared))
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
  if (exchange_.bytes() == 0) {
    constexpr size_t kBytes =
        kLine + sizeof(uint64_t) * std::max(Geometry<1024>::kUnits, Geometry<2048>::kUnits);
    exchange_ = allocate_on_device(kBytes);
    check_cuda(cudaMemsetAsync(exchange_.data(), 0, kBytes, context_.stream()), "decode stack");
  }
  call.count = static_cast<int>(count);
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
  call.passed = reinterpret_cast<unsigned*>(exchange_.data());
  call.units = reinterpret_cast<uint64_t*>(exchange_.data() + kLine);
  const bool is_short = shape.position < kShortWindow;
  if (D == 1024)
    is_short ? launch<1024, false>(context_, call) : launch<1024, true>(context_, call);
  else
    is_short ? launch<2048, false>(context_, call) : launch<2048, true>(context_, call);
  return true;
}

}  // namespace megabyte::cuda
