// Embedding, placing and unfolding of positions.
#include <algorithm>

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

// What comes to position i of a sequence: the vector of position from(i), or the pad.
struct Placed {
  int64_t length, dim;  // of a position
  bool shift;
};

template <class I>
struct PlaceForward {
  Placed shape;
  const I* in;
  const float* pad;
  float* out;
  template <int N>
  __device__ Floats<N> vector(int64_t row, int64_t c) const {
    return load<N>(in + row * shape.dim + c);
  }
};

template <class T>
struct EmbedForward {
  Placed shape;
  const uint16_t* tokens;
  const T* table;
  const float* pad;
  float* out;
  int64_t patch, width, vocab;
  template <int N>
  __device__ Floats<N> vector(int64_t row, int64_t c) const {
    const int64_t token = tokens[row * patch + c / width];
    if (token < vocab) return load<N>(table + token * width + c % width);
    Floats<N> nothing;  // what is no symbol must not go unseen
#pragma unroll
    for (int j = 0; j < N; ++j) nothing[j] = __int_as_float(0x7fffffff);
    return nothing;
  }
};

template <int N, class F, class P>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const F f, const P* positions, int64_t elements) {
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (at >= elements) return;
  const int64_t row = at / f.shape.dim, c = at % f.shape.dim;
  const int64_t i = row % f.shape.length, from = f.shape.shift ? i - 1 : i;
  Floats<N> x;
  if (from < 0) {
    x = load<N>(f.pad + c);
  } else {
    x = f.template vector<N>(row - i + from, c);
    if (positions != nullptr) {
      const Floats<N> where = load<N>(positions + from * f.shape.dim + c);
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] += where[j];
    }
  }
  store<N>(f.out + at, x);
}

template <class F, class P>
void forward(Context& context, const F& f, const P* positions, int64_t elements, bool vectors,
             const char* operation) {
  if (vectors)
    forward_kernel<4><<<grid_of(ceil_div(elements, 4 * kThreads)), kThreads, 0, context.stream()>>>(
        f, positions, elements);
  else
    forward_kernel<1><<<grid_of(ceil_div(elements, kThreads)), kThreads, 0, context.stream()>>>(
        f, positions, elements);
  check_launch(operation);
}

// din[i] = dout[i + 1 where shifted], 0 behind the last.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    place_backward_kernel(const Placed shape, const T* dout, T* din, int64_t elements) {
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (at >= elements) return;
  const int64_t i = at / shape.dim % shape.length, to = shape.shift ? i + 1 : i;
  Floats<N> g{};
  if (to < shape.length) g = load<N>(dout + at + (to - i) * shape.dim);
  store<N>(din + at, g);
}

// Gradients of what all sequences share: sums over sequences of dout (sequences, length * dim),
// whose row begins with the pad's where shifted.
void add_shared_gradients(Context& context, const Placed& shape, int64_t sequences,
                          const Tensor& dout, const Tensor& dpositions, const Tensor& dpad) {
  const int64_t width = shape.length * shape.dim;
  const int64_t skipped = shape.shift ? shape.dim : 0;
  if (shape.shift) add_column_sums(context, dout, sequences, shape.dim, width, device<float>(dpad));
  if (!dpositions || width == skipped) return;
  const Tensor rest = dout.view({dout.size()}).slice(skipped, dout.size() - skipped);
  add_column_sums(context, rest, sequences, width - skipped, width, device<float>(dpositions));
}

// --- gradient of the table: rows of dout added up by token, without atomics on floats. A warp owns
// 32 columns and a piece of the tokens, and adds to its own copy of a slice of the table in shared
// memory; the copies are summed afterwards.

constexpr int kTableWarps = 4;
constexpr int kTableRows = 256;  // symbols of a slice
constexpr int kAhead = 32;       // tokens whose gradients are loaded before they are added

template <class T>
struct EmbedBackward {
  Placed shape;
  const uint16_t* tokens;
  const T* dout;
  int64_t patch, width, vocab, count, each;  // count tokens, of which a piece has `each`
  float* partial;                            // (pieces, vocab, width)
};

template <class T>
__global__ void __launch_bounds__(32 * kTableWarps) table_kernel(const EmbedBackward<T> a) {
  extern __shared__ float tables[];  // (warps, symbols, 32)
  const int lane = threadIdx.x, warp = threadIdx.y;
  float* table = tables + warp * kTableRows * 32;
  const int64_t column = (int64_t{blockIdx.x} * kTableWarps + warp) * 32 + lane;
  const int64_t first = int64_t{blockIdx.y} * kTableRows;
  const int symbols = static_cast<int>(min(int64_t{kTableRows}, a.vocab - first));
  for (int v = 0; v < symbols; ++v) table[v * 32 + lane] = 0;
  const bool active = column < a.width;
  const int64_t begin = blockIdx.z * a.each, end = min(a.count, begin + a.each);
  for (int64_t at = begin; at < end; at += kAhead) {
    // Each lane finds out about one token for all.
    int symbol = -1;
    int64_t offset = 0;
    if (at + lane < end) {
      const int64_t row = (at + lane) / a.patch, p = (at + lane) % a.patch;
      const int64_t i = row % a.shape.length, to = a.shape.shift ? i + 1 : i;
      const int64_t s = int64_t{a.tokens[at + lane]} - first;
      if (to < a.shape.length && s >= 0 && s < symbols) symbol = static_cast<int>(s);
      offset = (row + to - i) * a.shape.dim + p * a.width;
    }
    float g[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t from = __shfl_sync(~0u, offset, k);
      g[k] = __shfl_sync(~0u, symbol, k) >= 0 && active ? to_float(a.dout[from + column]) : 0;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int s = __shfl_sync(~0u, symbol, k);
      if (s >= 0) table[s * 32 + lane] += g[k];
    }
  }
  if (!active) return;
  float* out = a.partial + (blockIdx.z * a.vocab + first) * a.width + column;
  for (int v = 0; v < symbols; ++v) out[v * a.width] = table[v * 32 + lane];
}

template <class T>
void add_table_gradient(Context& context, const EmbedShape& shape, const Tensor& tokens,
                        const Tensor& dout, const Tensor& dtable) {
  EmbedBackward<T> a{};
  a.shape = {shape.length, shape.patch * shape.dim, shape.shift};
  a.tokens = device<uint16_t>(tokens);
  a.dout = device<T>(dout);
  a.patch = shape.patch;
  a.width = shape.dim;
  a.vocab = dtable.size() / shape.dim;
  a.count = tokens.size();
  const int64_t across = ceil_div(shape.dim, 32 * kTableWarps);
  const int64_t slices = ceil_div(a.vocab, kTableRows);
  const int64_t pieces = std::clamp<int64_t>(2 * context.multiprocessors() / (across * slices), 1,
                                             ceil_div(a.count, 4 * kAhead));
  a.each = ceil_div(a.count, pieces);
  a.partial = context.scratch_of<float>(pieces * dtable.size());
  constexpr int kShared = kTableWarps * kTableRows * 32 * static_cast<int>(sizeof(float));
  check_cuda(
      cudaFuncSetAttribute(table_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
      "embed backward");
  table_kernel<T><<<dim3(grid_of(across), grid_of(slices), grid_of(pieces)), dim3(32, kTableWarps),
                    kShared, context.stream()>>>(a);
  check_launch("embed backward");
  add_partial_sums(context, a.partial, pieces, dtable.size(), device<float>(dtable));
}

// --- convolutions as products

template <class T>
__global__ void __launch_bounds__(kThreads)
    unfold_kernel(const float* in, int64_t length, int64_t channels, int64_t width, T* out,
                  int64_t elements) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= elements) return;
  const int64_t k = at % width, c = at / width % channels, row = at / (width * channels);
  const int64_t back = width - 1 - k;
  out[at] = from_float<T>(row % length < back ? 0.0f : in[(row - back) * channels + c]);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    unfold_backward_kernel(const T* dout, int64_t length, int64_t channels, int64_t width, T* din,
                           int64_t elements) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= elements) return;
  const int64_t c = at % channels, row = at / channels, ahead = length - row % length;
  float sum = to_float(din[at]);
  for (int64_t k = 0; k < width; ++k) {
    const int64_t later = width - 1 - k;  // the window of row + later holds this row as its k-th
    if (later < ahead) sum += to_float(dout[((row + later) * channels + c) * width + k]);
  }
  din[at] = from_float<T>(sum);
}

}  // namespace

void embed_forward(Context& context, const EmbedShape& shape, const Tensor& tokens,
                   const Tensor& table, const Tensor& positions, const Tensor& pad,
                   const Tensor& out) {
  with_float(table.dtype, [&](auto zero) {
    using T = decltype(zero);
    const EmbedForward<T> f{{shape.length, shape.patch * shape.dim, shape.shift},
                            device<uint16_t>(tokens),
                            device<T>(table),
                            device<float>(pad),
                            device<float>(out),
                            shape.patch,
                            shape.dim,
                            table.size() / shape.dim};
    const T* at = device<T>(positions);
    forward(context, f, at, out.size(), shape.dim % 4 == 0 && aligned16(f.table, f.pad, f.out, at),
            "embed");
  });
}

void embed_backward(Context& context, const EmbedShape& shape, const Tensor& tokens,
                    const Tensor& dout, const Tensor& dtable, const Tensor& dpositions,
                    const Tensor& dpad) {
  with_float(dout.dtype, [&](auto zero) {
    add_table_gradient<decltype(zero)>(context, shape, tokens, dout, dtable);
  });
  add_shared_gradients(context, {shape.length, shape.patch * shape.dim, shape.shift},
                       shape.sequences, dout, dpositions, dpad);
}

void place_forward(Context& context, const PlaceShape& shape, const Tensor& in,
                   const Tensor& positions, const Tensor& pad, const Tensor& out) {
  const auto run = [&](auto from, auto where) {
    using I = decltype(from);
    using P = decltype(where);
    const PlaceForward<I> f{{shape.length, shape.dim, shape.shift},
                            device<I>(in),
                            device<float>(pad),
                            device<float>(out)};
    const P* at = device<P>(positions);
    forward(context, f, at, out.size(), shape.dim % 4 == 0 && aligned16(f.in, f.pad, f.out, at),
            "place");
  };
  with_float(in.dtype, [&](auto from) {
    if (positions)
      with_float(positions.dtype, [&](auto where) { run(from, where); });
    else
      run(from, float{});
  });
}

void place_backward(Context& context, const PlaceShape& shape, const Tensor& dout,
                    const Tensor& din, const Tensor& dpositions, const Tensor& dpad) {
  const Placed placed{shape.length, shape.dim, shape.shift};
  with_float(din.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = device<T>(dout);
    T* to = device<T>(din);
    const int64_t n = din.size();
    if (shape.dim % 4 == 0 && aligned16(from, to))
      place_backward_kernel<4>
          <<<grid_of(ceil_div(n, 4 * kThreads)), kThreads, 0, context.stream()>>>(placed, from, to,
                                                                                  n);
    else
      place_backward_kernel<1>
          <<<grid_of(ceil_div(n, kThreads)), kThreads, 0, context.stream()>>>(placed, from, to, n);
    check_launch("place backward");
  });
  add_shared_gradients(context, placed, shape.sequences, dout, dpositions, dpad);
}

void unfold(Context& context, const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  with_float(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    unfold_kernel<T><<<grid_of(ceil_div(out.size(), kThreads)), kThreads, 0, context.stream()>>>(
        device<float>(in), length, in.shape[1], width, device<T>(out), out.size());
    check_launch("unfold");
  });
}

void unfold_backward(Context& context, const Tensor& dout, int64_t length, int64_t width,
                     const Tensor& din) {
  with_float(dout.dtype, [&](auto zero) {
    using T = decltype(zero);
    unfold_backward_kernel<T>
        <<<grid_of(ceil_div(din.size(), kThreads)), kThreads, 0, context.stream()>>>(
            device<T>(dout), length, din.shape[1], width, device<T>(din), din.size());
    check_launch("unfold backward");
  });
}

}  // namespace megabyte::cuda
