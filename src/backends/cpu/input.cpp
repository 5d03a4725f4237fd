// The input side: byte embeddings, shifted placement, windows of convolutions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/input.cpp"
#include "backends/cpu/kernels.h"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread should have

HWY_INLINE int64_t row_grain(int64_t width) { return std::max<int64_t>(1, kGrain / width); }

template <class From, class To>
HWY_INLINE void CopyRow(const From* in, To* out, int64_t n) {
  for_lanes(n, [=](int64_t i, auto lanes) HWY_ATTR { store(load(in + i, lanes), out + i, lanes); });
}

template <class A, class B, class To>
HWY_INLINE void AddRows(const A* a, const B* b, To* out, int64_t n) {
  for_lanes(n, [=](int64_t i, auto lanes) HWY_ATTR {
    store(hn::Add(load(a + i, lanes), load(b + i, lanes)), out + i, lanes);
  });
}

void EmbedForward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                  const Tensor& table, const Tensor& positions, const Tensor& pad,
                  const Tensor& out) {
  const uint16_t* bytes = tokens.as<uint16_t>();
  float* y = out.as<float>();
  const int64_t width = shape.patch * shape.dim;
  with_type(table.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    const T* rows = table.as<T>();
    const T* places = positions ? positions.as<T>() : nullptr;
    const float* first = shape.shift ? pad.as<float>() : nullptr;
    threads.parallel(shape.sequences * shape.length, row_grain(width),
                     [=](int64_t begin, int64_t end, int) HWY_ATTR {
                       for (int64_t r = begin; r < end; ++r) {
                         const int64_t from = r % shape.length - (shape.shift ? 1 : 0);
                         float* to = y + r * width;
                         if (from < 0) {
                           CopyRow(first, to, width);
                           continue;
                         }
                         const uint16_t* patch = bytes + (r - (shape.shift ? 1 : 0)) * shape.patch;
                         for (int64_t j = 0; j < shape.patch; ++j) {
                           const T* row = rows + patch[j] * shape.dim;
                           if (places != nullptr)
                             AddRows(row, places + (from * shape.patch + j) * shape.dim,
                                     to + j * shape.dim, shape.dim);
                           else
                             CopyRow(row, to + j * shape.dim, shape.dim);
                         }
                       }
                     });
  });
}

// Each thread owns a stripe of the columns of every table: no two threads add to one element, and
// the order of additions is that of the tokens for any number of threads.
void EmbedBackward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                   const Tensor& dout, const Tensor& dtable, const Tensor& dpositions,
                   const Tensor& dpad) {
  const uint16_t* bytes = tokens.as<uint16_t>();
  const float* dy = dout.as<float>();
  float* rows = dtable.as<float>();
  float* places = dpositions ? dpositions.as<float>() : nullptr;
  float* first = shape.shift ? dpad.as<float>() : nullptr;
  const int64_t dim = shape.dim, width = shape.patch * dim;
  const int64_t total = shape.sequences * shape.length;
  const int64_t stripes = (dim + kLanes - 1) / kLanes;
  const int64_t grain = total * width < kGrain ? stripes : 1;
  threads.parallel(stripes, grain, [=](int64_t begin, int64_t end, int) HWY_ATTR {
    const int64_t left = begin * kLanes, count = std::min(dim, end * kLanes) - left;
    for (int64_t r = 0; r < total; ++r) {
      const int64_t from = r % shape.length - (shape.shift ? 1 : 0);
      const float* g = dy + r * width + left;
      const uint16_t* patch = bytes + (r - (shape.shift ? 1 : 0)) * shape.patch;
      for (int64_t j = 0; j < shape.patch; ++j) {
        if (from < 0) {
          float* to = first + j * dim + left;
          AddRows(to, g + j * dim, to, count);
          continue;
        }
        float* row = rows + patch[j] * dim + left;
        AddRows(row, g + j * dim, row, count);
        if (places != nullptr) {
          float* place = places + (from * shape.patch + j) * dim + left;
          AddRows(place, g + j * dim, place, count);
        }
      }
    }
  });
}

void PlaceForward(Threads& threads, const PlaceShape& shape, const Tensor& in,
                  const Tensor& positions, const Tensor& pad, const Tensor& out) {
  const int64_t dim = shape.dim, shift = shape.shift ? 1 : 0;
  const DType position_type = positions ? positions.dtype : DType::f32;
  with_type(in.dtype, [&](auto type_in) HWY_ATTR {
    with_type(out.dtype, [&](auto type_out) HWY_ATTR {
      with_type(position_type, [&](auto type_position) HWY_ATTR {
        const auto* x = in.as<decltype(type_in)>();
        auto* y = out.as<decltype(type_out)>();
        const auto* places = positions ? positions.as<decltype(type_position)>() : nullptr;
        const float* first = shape.shift ? pad.as<float>() : nullptr;
        threads.parallel(shape.sequences * shape.length, row_grain(dim),
                         [=](int64_t begin, int64_t end, int) HWY_ATTR {
                           for (int64_t r = begin; r < end; ++r) {
                             const int64_t from = r % shape.length - shift;
                             if (from < 0)
                               CopyRow(first, y + r * dim, dim);
                             else if (places != nullptr)
                               AddRows(x + (r - shift) * dim, places + from * dim, y + r * dim,
                                       dim);
                             else
                               CopyRow(x + (r - shift) * dim, y + r * dim, dim);
                           }
                         });
      });
    });
  });
}

void PlaceBackward(Threads& threads, const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                   const Tensor& dpositions, const Tensor& dpad) {
  const int64_t dim = shape.dim, length = shape.length, shift = shape.shift ? 1 : 0;
  const int64_t total = shape.sequences * length;
  with_type(dout.dtype, [&](auto type_out) HWY_ATTR {
    with_type(din.dtype, [&](auto type_in) HWY_ATTR {
      const auto* dy = dout.as<decltype(type_out)>();
      auto* dx = din.as<decltype(type_in)>();
      float* places = dpositions ? dpositions.as<float>() : nullptr;
      float* first = shape.shift ? dpad.as<float>() : nullptr;
      const int64_t stripes = (dim + kLanes - 1) / kLanes;
      const int64_t grain = total * dim < kGrain ? stripes : 1;
      threads.parallel(stripes, grain, [=](int64_t begin, int64_t end, int) HWY_ATTR {
        const int64_t left = begin * kLanes, count = std::min(dim, end * kLanes) - left;
        for (int64_t r = 0; r < total; ++r) {
          const int64_t at = r % length;
          const auto* g = dy + r * dim + left;
          if (shift == 1 && at == 0) AddRows(first + left, g, first + left, count);
          auto* to = dx + r * dim + left;
          if (at + shift == length) {  // shifted out
            for (int64_t i = 0; i < count; ++i) to[i] = {};
            continue;
          }
          CopyRow(g + shift * dim, to, count);
          if (places != nullptr)
            AddRows(places + at * dim + left, g + shift * dim, places + at * dim + left, count);
        }
      });
    });
  });
}

void Unfold(Threads& threads, const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  const int64_t total = in.shape[0], channels = in.shape[1];
  const float* x = in.as<float>();
  with_type(out.dtype, [&](auto type) HWY_ATTR {
    using T = decltype(type);
    T* y = out.as<T>();
    threads.parallel(total, row_grain(channels * width),
                     [=](int64_t begin, int64_t end, int) HWY_ATTR {
                       for (int64_t r = begin; r < end; ++r)
                         for (int64_t k = 0; k < width; ++k) {
                           const int64_t back = width - 1 - k;
                           const bool inside = r % length >= back;
                           for (int64_t c = 0; c < channels; ++c)
                             y[(r * channels + c) * width + k] =
                                 inside ? static_cast<T>(x[(r - back) * channels + c]) : T{};
                         }
                     });
  });
}

void UnfoldBackward(Threads& threads, const Tensor& dout, int64_t length, int64_t width,
                    const Tensor& din) {
  const int64_t total = din.shape[0], channels = din.shape[1];
  float* dx = din.as<float>();
  with_type(dout.dtype, [&](auto type) HWY_ATTR {
    const auto* dy = dout.as<decltype(type)>();
    threads.parallel(total, row_grain(channels * width),
                     [=](int64_t begin, int64_t end, int) HWY_ATTR {
                       for (int64_t r = begin; r < end; ++r)
                         for (int64_t k = 0; k < width; ++k) {
                           const int64_t ahead = width - 1 - k;
                           if (r % length + ahead >= length) continue;
                           for (int64_t c = 0; c < channels; ++c)
                             dx[r * channels + c] +=
                                 static_cast<float>(dy[((r + ahead) * channels + c) * width + k]);
                         }
                     });
  });
}

}  // namespace
}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megabyte::cpu {

HWY_EXPORT(EmbedForward);
HWY_EXPORT(EmbedBackward);
HWY_EXPORT(PlaceForward);
HWY_EXPORT(PlaceBackward);
HWY_EXPORT(Unfold);
HWY_EXPORT(UnfoldBackward);

void embed_forward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                   const Tensor& table, const Tensor& positions, const Tensor& pad,
                   const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(EmbedForward)(threads, shape, tokens, table, positions, pad, out);
}
void embed_backward(Threads& threads, const EmbedShape& shape, const Tensor& tokens,
                    const Tensor& dout, const Tensor& dtable, const Tensor& dpositions,
                    const Tensor& dpad) {
  HWY_DYNAMIC_DISPATCH(EmbedBackward)(threads, shape, tokens, dout, dtable, dpositions, dpad);
}
void place_forward(Threads& threads, const PlaceShape& shape, const Tensor& in,
                   const Tensor& positions, const Tensor& pad, const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(PlaceForward)(threads, shape, in, positions, pad, out);
}
void place_backward(Threads& threads, const PlaceShape& shape, const Tensor& dout,
                    const Tensor& din, const Tensor& dpositions, const Tensor& dpad) {
  HWY_DYNAMIC_DISPATCH(PlaceBackward)(threads, shape, dout, din, dpositions, dpad);
}
void unfold(Threads& threads, const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  HWY_DYNAMIC_DISPATCH(Unfold)(threads, in, length, width, out);
}
void unfold_backward(Threads& threads, const Tensor& dout, int64_t length, int64_t width,
                     const Tensor& din) {
  HWY_DYNAMIC_DISPATCH(UnfoldBackward)(threads, dout, length, width, din);
}

}  // namespace megabyte::cpu
#endif
