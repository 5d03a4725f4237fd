// What frequencies say a target costs, and the coding of bytes. A warp has a row.
#include "backends/exact_cuda/frequencies.cuh"

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kWarps = 4;

struct Loss {
  const float* logits;
  const uint16_t* targets;
  float* losses;
  double* nats;  // of each row
  int64_t rows, length, valid, vocab;
};

__global__ void __launch_bounds__(32 * kWarps) loss_kernel(const Loss a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= a.rows) return;
  double nats = 0;
  if (row % a.length < a.valid) {
    const float* logits = a.logits + row * a.vocab;
    float top = minus_infinity();
    for (int64_t i = lane; i < a.vocab; i += 32) top = maximum(logits[i], top);
    top = maximum_of_warp(top);
    unsigned long long sum = 0;
    for (int64_t i = lane; i < a.vocab; i += 32) sum += frequency(logits[i], top);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    const unsigned target = a.targets[row];
    nats = target < a.vocab ? log(static_cast<double>(sum)) -
                                  log(static_cast<double>(frequency(logits[target], top)))
                            : __longlong_as_double(0x7ff8000000000000ll);
  }
  if (lane > 0) return;
  if (a.losses != nullptr) a.losses[row] = static_cast<float>(nats);
  a.nats[row] = nats;
}

__global__ void __launch_bounds__(32 * kWarps)
    shares_kernel(const float* logits, int64_t rows, int64_t vocab, const uint16_t* bytes,
                  ByteShare* shares) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const Frequencies f(logits + row * vocab, lane);
  const int byte = bytes[row] % 256;
  if (byte / Frequencies::kEach != lane) return;
  ByteShare share{f.below, 0, f.total};
#pragma unroll
  for (int i = 0; i < Frequencies::kEach; ++i) {
    if (i < byte % Frequencies::kEach) share.below += f.own[i];
    if (i == byte % Frequencies::kEach) share.frequency = f.own[i];
  }
  shares[row] = share;
}

__global__ void __launch_bounds__(32 * kWarps)
    decode_kernel(const float* logits, int64_t rows, int64_t vocab, RangeDecoder* decoders,
                  uint16_t* bytes) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  decode_byte(logits + row * vocab, lane, decoders + row, bytes + row);
}

unsigned blocks_of(int64_t rows) { return cuda::grid_of(cuda::ceil_div(rows, kWarps)); }

}  // namespace

void byte_shares(cuda::Context& context, const float* logits, int64_t rows, int64_t vocab,
                 const uint16_t* bytes, ByteShare* shares) {
  shares_kernel<<<blocks_of(rows), 32 * kWarps, 0, context.stream()>>>(logits, rows, vocab, bytes,
                                                                       shares);
  cuda::check_launch("shares of bytes");
}

void decode_bytes(cuda::Context& context, const float* logits, int64_t rows, int64_t vocab,
                  RangeDecoder* decoders, uint16_t* bytes) {
  decode_kernel<<<blocks_of(rows), 32 * kWarps, 0, context.stream()>>>(logits, rows, vocab,
                                                                       decoders, bytes);
  cuda::check_launch("decoding of bytes");
}

void cross_entropy(cuda::Context& context, const LossShape& shape, const float* logits,
                   const uint16_t* targets, float* losses, double* total) {
  const int64_t rows = shape.rows * shape.length;
  const Loss a{logits, targets,      losses,      context.scratch_of<double>(rows),
               rows,   shape.length, shape.valid, shape.vocab};
  loss_kernel<<<blocks_of(rows), 32 * kWarps, 0, context.stream()>>>(a);
  cuda::check_launch("cross entropy");
  cuda::add_total(context, a.nats, rows, total);
}

}  // namespace megabyte::exact_cuda
