// Operations on single elements, and column sums.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/elementwise.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 16384;  // elements a thread should have

void Convert(Threads& threads, const Tensor& src, const Tensor& dst) {
  with_type(src.dtype, [&](auto from) HWY_ATTR {
    with_type(dst.dtype, [&](auto to) HWY_ATTR {
      const auto* in = src.as<decltype(from)>();
      auto* out = dst.as<decltype(to)>();
      threads.parallel(src.size(), kGrain, [=](int64_t begin, int64_t end, int) HWY_ATTR {
        for_lanes(end - begin, [=](int64_t i, auto lanes) HWY_ATTR {
          store(load(in + begin + i, lanes), out + begin + i, lanes);
        });
      });
    });
  });
}

void Add(Threads& threads, const Tensor& a, const Tensor& b, const Tensor& out) {
  with_type(a.dtype, [&](auto type_a) HWY_ATTR {
    with_type(b.dtype, [&](auto type_b) HWY_ATTR {
      with_type(out.dtype, [&](auto type_out) HWY_ATTR {
        const auto* x = a.as<decltype(type_a)>();
        const auto* y = b.as<decltype(type_b)>();
        auto* z = out.as<decltype(type_out)>();
        threads.parallel(out.size(), kGrain, [=](int64_t begin, int64_t end, int) HWY_ATTR {
          for_lanes(end - begin, [=](int64_t i, auto lanes) HWY_ATTR {
            store(hn::Add(load(x + begin + i, lanes), load(y + begin + i, lanes)), z + begin + i,
                  lanes);
          });
        });
      });
    });
  });
}

// z = f(x, y) elementwise; x and z of type T, y of type U.
template <class T, class U, class W, class Function>
void Map(Threads& threads, int64_t size, const T* x, const U* y, W* z, Function f) {
  threads.parallel(size, kGrain / 4, [=](int64_t begin, int64_t end, int) HWY_ATTR {
    for_lanes(end - begin, [=](int64_t i, auto lanes) HWY_ATTR {
      store(f(load(x + begin + i, lanes), load(y + begin + i, lanes)), z + begin + i, lanes);
    });
  });
}

void ActivationForward(Threads& threads, Activation activation, const Tensor& pre,
                       const Tensor& y) {
  with_type(pre.dtype, [&](auto type) HWY_ATTR {
    with_type(y.dtype, [&](auto type_out) HWY_ATTR {
      const auto* x = pre.as<decltype(type)>();
      auto* z = y.as<decltype(type_out)>();
      if (activation == Activation::gelu)
        Map(threads, y.size(), x, x, z, [](V a, V) HWY_ATTR { return gelu(a); });
      else if (activation == Activation::relu)
        Map(threads, y.size(), x, x, z, [](V a, V) HWY_ATTR { return hn::Max(a, zero()); });
      else
        Map(threads, y.size(), x, x, z, [](V a, V) HWY_ATTR { return a; });
    });
  });
}

void ActivationBackward(Threads& threads, const Tensor& dy, Activation activation,
                        const Tensor& saved, const Tensor& dx) {
  with_type(dy.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    if (activation == Activation::gelu)
      Map(threads, dx.size(), dy.as<T>(), saved.as<T>(), dx.as<T>(),
          [](V g, V x) HWY_ATTR { return hn::Mul(g, gelu_derivative(x)); });
    else if (activation == Activation::relu)
      Map(threads, dx.size(), dy.as<T>(), saved.as<T>(), dx.as<T>(),
          [](V g, V x) HWY_ATTR { return hn::IfThenElseZero(hn::Gt(x, zero()), g); });
    else
      Map(threads, dx.size(), dy.as<T>(), dy.as<T>(), dx.as<T>(),
          [](V g, V) HWY_ATTR { return g; });
  });
}

// Each thread owns a stripe of columns, so that sums need no second pass and no order of threads.
void AddColumnSums(Threads& threads, const Tensor& x, const Tensor& sums) {
  const int64_t rows = x.shape[0], cols = x.shape[1];
  float* out = sums.as<float>();
  with_type(x.dtype, [&](auto type) HWY_ATTR {
    const auto* in = x.as<decltype(type)>();
    constexpr int64_t kStripe = 4 * kLanes;
    const int64_t stripes = (cols + kStripe - 1) / kStripe;
    const int64_t grain = rows * kStripe < kGrain ? stripes : 1;
    threads.parallel(stripes, grain, [=](int64_t begin, int64_t end, int) HWY_ATTR {
      for (int64_t s = begin; s < end; ++s) {
        const int64_t first = s * kStripe;
        if (first + kStripe <= cols) {
          V a = load(out + first), b = load(out + first + kLanes);
          V c = load(out + first + 2 * kLanes), d = load(out + first + 3 * kLanes);
          for (int64_t r = 0; r < rows; ++r) {
            const auto* row = in + r * cols + first;
            a = hn::Add(a, load(row));
            b = hn::Add(b, load(row + kLanes));
            c = hn::Add(c, load(row + 2 * kLanes));
            d = hn::Add(d, load(row + 3 * kLanes));
          }
          store(a, out + first);
          store(b, out + first + kLanes);
          store(c, out + first + 2 * kLanes);
          store(d, out + first + 3 * kLanes);
        } else {
          for (int64_t r = 0; r < rows; ++r)
            for_lanes(cols - first, [=](int64_t i, auto lanes) HWY_ATTR {
              float* at = out + first + i;
              store(hn::Add(load(at, lanes), load(in + r * cols + first + i, lanes)), at, lanes);
            });
        }
      }
    });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(Convert);
HWY_EXPORT(Add);
HWY_EXPORT(ActivationForward);
HWY_EXPORT(ActivationBackward);
HWY_EXPORT(AddColumnSums);

void convert(Threads& threads, const Tensor& src, const Tensor& dst) {
  HWY_DYNAMIC_DISPATCH(Convert)(threads, src, dst);
}
void add(Threads& threads, const Tensor& a, const Tensor& b, const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(Add)(threads, a, b, out);
}
void activation_forward(Threads& threads, Activation activation, const Tensor& pre,
                        const Tensor& y) {
  HWY_DYNAMIC_DISPATCH(ActivationForward)(threads, activation, pre, y);
}
void activation_backward(Threads& threads, const Tensor& dy, Activation activation,
                         const Tensor& saved, const Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(ActivationBackward)(threads, dy, activation, saved, dx);
}
void add_column_sums(Threads& threads, const Tensor& x, const Tensor& sums) {
  HWY_DYNAMIC_DISPATCH(AddColumnSums)(threads, x, sums);
}

}  // namespace megabyte::cpu
#endif
