// Drawing bytes on the device: the rules of ops/sampling.h, one block for each row.
#include <cfloat>

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

struct Candidate {
  double weight;  // probability, up to a common factor; below 0 where there is none
  int token;
};

__device__ bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// The largest logit of a row and its place; the lowest wins a tie, NaN never wins: -1 when all are.
__device__ int row_argmax(const float* logits, int vocab) {
  __shared__ float values[kThreads];
  __shared__ int places[kThreads];
  float top = 0;
  int place = -1;
  for (int i = threadIdx.x; i < vocab; i += kThreads)
    if (!isnan(logits[i]) && (place < 0 || logits[i] > top)) {
      top = logits[i];
      place = i;
    }
  values[threadIdx.x] = top;
  places[threadIdx.x] = place;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const int other = places[threadIdx.x + half], mine = places[threadIdx.x];
      const float theirs = values[threadIdx.x + half], ours = values[threadIdx.x];
      if (other >= 0 && (mine < 0 || theirs > ours || (theirs == ours && other < mine))) {
        values[threadIdx.x] = theirs;
        places[threadIdx.x] = other;
      }
    }
    __syncthreads();
  }
  return places[0];
}

// Bitonic sort of `size` (a power of two) candidates, the likeliest first.
__device__ void sort(Candidate* c, int size) {
  for (int run = 2; run <= size; run *= 2)
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size; i += kThreads) {
        const int j = i ^ step;
        if (j <= i) continue;
        const bool forward = (i & run) == 0;
        if (likelier(c[j], c[i]) == forward) {
          const Candidate x = c[i];
          c[i] = c[j];
          c[j] = x;
        }
      }
      __syncthreads();
    }
}

// The first place at which the running sum of the first `count` weights passes `threshold` (reaches
// it, where `reach`), or count - 1; by one warp. `threshold` is a share of the sum of all, which
// goes out in `total`.
__device__ int crossing(const Candidate* c, int count, double share, bool reach) {
  const int lane = threadIdx.x % 32, each = (count + 31) / 32;
  const int begin = min(count, lane * each), end = min(count, begin + each);
  double mine = 0;
  for (int i = begin; i < end; ++i) mine += fmax(c[i].weight, 0.0);
  double before = mine;  // running sum over lanes
  for (int offset = 1; offset < 32; offset *= 2) {
    const double other = __shfl_up_sync(~0u, before, offset);
    if (lane >= offset) before += other;
  }
  const double threshold = share * __shfl_sync(~0u, before, 31);
  double sum = before - mine;
  int place = count;
  for (int i = begin; i < end; ++i) {
    if (c[i].weight <= 0) continue;
    sum += c[i].weight;
    if (reach ? sum >= threshold : sum > threshold) {
      place = i;
      break;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2)
    place = min(place, __shfl_xor_sync(~0u, place, offset));
  if (place < count) return place;
  int last = -1;  // the sum rounded down: the last that has any weight
  for (int i = begin; i < end; ++i)
    if (c[i].weight > 0) last = i;
  for (int offset = 16; offset > 0; offset /= 2)
    last = max(last, __shfl_xor_sync(~0u, last, offset));
  return last;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const SampleShape shape, const float* all_logits, const float* draws,
                  Candidate* memory, int size, uint16_t* tokens) {
  extern __shared__ double shared[];
  const int vocab = static_cast<int>(shape.vocab);
  const float* logits = all_logits + int64_t{blockIdx.x} * vocab;
  const int best = row_argmax(logits, vocab);
  if (best < 0 || shape.temperature == 0) {
    if (threadIdx.x == 0) tokens[blockIdx.x] = static_cast<uint16_t>(max(best, 0));
    return;
  }
  Candidate* c = memory != nullptr ? memory + int64_t{blockIdx.x} * size
                                   : reinterpret_cast<Candidate*>(shared);
  const double top = static_cast<double>(logits[best]);
  __shared__ int candidates;
  if (threadIdx.x == 0) candidates = 0;
  __syncthreads();
  int mine = 0;
  for (int i = threadIdx.x; i < size; i += kThreads) {
    c[i] = {-1, i};
    if (i >= vocab) continue;
    const double logit = static_cast<double>(logits[i]);
    const double weight = logit == top ? 1 : exp((logit - top) / shape.temperature);
    if (!(weight > 0)) continue;
    c[i].weight = weight;
    ++mine;
  }
  atomicAdd(&candidates, mine);
  __syncthreads();
  const bool top_k = shape.top_k > 0 && shape.top_k < candidates;
  const bool sorted = top_k || shape.top_p < 1;
  if (sorted) sort(c, size);
  if (threadIdx.x >= 32) return;
  int count = sorted ? candidates : vocab;
  if (top_k) count = static_cast<int>(shape.top_k);
  if (shape.top_p < 1) count = crossing(c, count, shape.top_p, true) + 1;
  const int place = crossing(c, count, static_cast<double>(draws[blockIdx.x]), false);
  if (threadIdx.x == 0) tokens[blockIdx.x] = static_cast<uint16_t>(c[place].token);
}

}  // namespace

void sample(Context& context, const SampleShape& shape, const Tensor& logits, const Tensor& draws,
            const Tensor& tokens) {
  check(shape.vocab > 0 && shape.vocab <= 65536, "sample: tokens fit 16 bits");
  check(shape.temperature >= 0 && shape.top_k >= 0,
        "sample: temperature and top_k are not negative");
  int size = 1;
  while (size < shape.vocab) size *= 2;
  size_t bytes = static_cast<size_t>(size) * sizeof(Candidate);
  Candidate* memory = nullptr;
  if (bytes > 40960) {  // a larger vocabulary is sorted in device memory
    memory = context.scratch_of<Candidate>(shape.batch * size);
    bytes = 0;
  }
  sample_kernel<<<grid_of(shape.batch), kThreads, bytes, context.stream()>>>(
      shape, device<float>(logits), draws ? device<float>(draws) : nullptr, memory, size, device<uint16_t>(tokens));
  check_launch("sample");
}

}  // namespace megabyte::cuda
