// Element by element: conversions, sums and activations.
#include "backends/cuda/activation.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

// f.apply<N>(i) handles elements [i, i + N).
template <int N, class F>
__global__ void for_each_kernel(int64_t n, F f) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (i + N <= n) {
    f.template apply<N>(i);
  } else {
    for (int64_t j = i; j < n; ++j) f.template apply<1>(j);
  }
}

// In vectors of eight where addresses allow.
template <class F>
void for_each(Context& context, int64_t n, bool vectors, const F& f, const char* operation) {
  if (n == 0) return;
  if (vectors)
    for_each_kernel<8><<<grid_of(ceil_div(n, 8 * kThreads)), kThreads, 0, context.stream()>>>(n, f);
  else
    for_each_kernel<1><<<grid_of(ceil_div(n, kThreads)), kThreads, 0, context.stream()>>>(n, f);
  check_launch(operation);
}

template <class A, class O>
struct Convert {
  const A* a;
  O* out;
  template <int N>
  __device__ void apply(int64_t i) const {
    store<N>(out + i, load<N>(a + i));
  }
};

template <class A, class B, class O>
struct Add {
  const A* a;
  const B* b;
  O* out;
  template <int N>
  __device__ void apply(int64_t i) const {
    Floats<N> x = load<N>(a + i);
    const Floats<N> y = load<N>(b + i);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] += y[j];
    store<N>(out + i, x);
  }
};

template <Activation kind, class A, class O>
struct Activate {
  const A* pre;
  O* y;
  template <int N>
  __device__ void apply(int64_t i) const {
    Floats<N> x = load<N>(pre + i);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = activate<kind, A>(x[j]);
    store<N>(y + i, x);
  }
};

template <Activation kind, class T>
struct ActivateBackward {
  const T* dy;
  const T* saved;
  T* dx;
  template <int N>
  __device__ void apply(int64_t i) const {
    Floats<N> x = load<N>(dy + i);
    const Floats<N> s = load<N>(saved + i);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] *= slope<kind, T>(s[j]);
    store<N>(dx + i, x);
  }
};

template <Activation kind, class T, class O>
struct Finish {
  const float *product, *bias;
  int cols;
  T* pre;
  O* y;
  template <int N>
  __device__ void apply(int64_t i) const {
    Floats<N> x = load<N>(product + i);
    if (bias != nullptr) {
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] += bias[(i + j) % cols];
    }
    if (pre != nullptr) store<N>(pre + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = activate<kind, float>(x[j]);
    store<N>(y + i, x);
  }
};

}  // namespace

void convert(Context& context, const Tensor& src, const Tensor& dst) {
  with_float(src.dtype, [&](auto from) {
    with_float(dst.dtype, [&](auto to) {
      using A = decltype(from);
      using O = decltype(to);
      const Convert<A, O> f{device<A>(src), device<O>(dst)};
      for_each(context, src.size(), aligned16(f.a, f.out), f, "convert");
    });
  });
}

void add(Context& context, const Tensor& a, const Tensor& b, const Tensor& out) {
  with_float(a.dtype, [&](auto ta) {
    with_float(b.dtype, [&](auto tb) {
      with_float(out.dtype, [&](auto to) {
        using A = decltype(ta);
        using B = decltype(tb);
        using O = decltype(to);
        const Add<A, B, O> f{device<A>(a), device<B>(b), device<O>(out)};
        for_each(context, a.size(), aligned16(f.a, f.b, f.out), f, "add");
      });
    });
  });
}

void activation_forward(Context& context, Activation activation, const Tensor& pre,
                        const Tensor& y) {
  with_float(pre.dtype, [&](auto from) {
    with_float(y.dtype, [&](auto to) {
      with_activation(activation, [&](auto kind) {
        using A = decltype(from);
        using O = decltype(to);
        const Activate<decltype(kind)::value, A, O> f{device<A>(pre), device<O>(y)};
        for_each(context, pre.size(), aligned16(f.pre, f.y), f, "activation");
      });
    });
  });
}

void activation_backward(Context& context, const Tensor& dy, Activation activation,
                         const Tensor& saved, const Tensor& dx) {
  with_float(dy.dtype, [&](auto zero) {
    with_activation(activation, [&](auto kind) {
      using T = decltype(zero);
      const ActivateBackward<decltype(kind)::value, T> f{device<T>(dy), device<T>(saved),
                                                         device<T>(dx)};
      for_each(context, dy.size(), aligned16(f.dy, f.saved, f.dx), f, "activation backward");
    });
  });
}

void finish_linear(Context& context, const Tensor& product, const Tensor& bias,
                   Activation activation, const Tensor& pre, const Tensor& y) {
  with_float(pre ? pre.dtype : y.dtype, [&](auto kept) {
    with_float(y.dtype, [&](auto to) {
      with_activation(activation, [&](auto kind) {
        using T = decltype(kept);
        using O = decltype(to);
        const Finish<decltype(kind)::value, T, O> f{device<float>(product), device<float>(bias),
                                                    static_cast<int>(product.shape[1]),
                                                    device<T>(pre), device<O>(y)};
        for_each(context, product.size(), aligned16(f.product, f.pre, f.y), f, "linear");
      });
    });
  });
}

}  // namespace megabyte::cuda
