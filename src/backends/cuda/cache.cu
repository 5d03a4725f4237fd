// Keys and values of positions that ran together, to where decoding finds them.
#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

// Head vectors in `pieces` of T each: (batch, positions, key or value, head, piece).
template <class T>
__global__ void __launch_bounds__(kThreads)
    cache_kernel(const CacheShape shape, int64_t pieces, const T* qkv, T* keys, T* values) {
  const int64_t count = shape.last - shape.first;
  int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t c = at % pieces, h = at / pieces % shape.heads;
  at /= pieces * shape.heads;
  const int64_t which = at % 2, p = shape.first + at / 2 % count, b = at / 2 / count;
  if (b >= shape.batch) return;
  T* cached = which == 0 ? keys : values;
  cached[((b * shape.heads + h) * shape.capacity + p % shape.capacity) * pieces + c] =
      qkv[(((b * shape.length + p) * 3 + 1 + which) * shape.heads + h) * pieces + c];
}

}  // namespace

void cache_keys(Context& context, const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                const Tensor& values) {
  const int64_t vectors = shape.batch * (shape.last - shape.first) * 2 * shape.heads;
  if (vectors == 0) return;
  const auto bytes = shape.head_dim * static_cast<int64_t>(size_of(qkv.dtype));
  const auto copy = [&]<class T>(T) {
    const int64_t pieces = bytes / static_cast<int64_t>(sizeof(T));
    cache_kernel<<<grid_of(ceil_div(vectors * pieces, kThreads)), kThreads, 0, context.stream()>>>(
        shape, pieces, reinterpret_cast<const T*>(qkv.data), reinterpret_cast<T*>(keys.data),
        reinterpret_cast<T*>(values.data));
  };
  if (bytes % 16 == 0 && aligned16(qkv.data) && aligned16(keys.data) && aligned16(values.data))
    copy(int4{});
  else
    copy(uint16_t{});
  check_launch("cache of keys");
}

}  // namespace megabyte::cuda
