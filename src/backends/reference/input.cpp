// Embedding, placing and unfolding of positions.
#include <algorithm>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"

namespace megabyte::reference {

void ReferenceBackend::embed_forward(const EmbedShape& shape, const Tensor& tokens,
                                     const Tensor& table, const Tensor& positions,
                                     const Tensor& pad, const Tensor& out) {
  with_type(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t n = shape.length, P = shape.patch, e = shape.dim, D = P * e;
    check(table.size() % e == 0, "embed: a table of rows (V, dim)");
    const int64_t vocab = table.size() / e;
    const auto* x = elements<uint16_t>(tokens, shape.sequences * n * P, "embed: tokens");
    const T* E = elements<T>(table, vocab * e, "embed: table");
    const T* at = positions ? elements_at_least<T>(positions, n * D, "embed: positions") : nullptr;
    const T* first = shape.shift ? elements<T>(pad, D, "embed: pad") : nullptr;
    T* y = elements<T>(out, shape.sequences * n * D, "embed: out");
    for (int64_t s = 0; s < shape.sequences; ++s)
      for (int64_t i = 0; i < n; ++i, y += D) {
        const int64_t from = shape.shift ? i - 1 : i;  // the position whose bytes come to i
        if (from < 0) {
          std::copy_n(first, D, y);
          continue;
        }
        for (int64_t p = 0; p < P; ++p) {
          const int64_t token = x[(s * n + from) * P + p];
          check(token < vocab, "embed: a token is below the vocabulary's size");
          for (int64_t c = 0; c < e; ++c) {
            const T where = at != nullptr ? at[(from * P + p) * e + c] : T{0};
            y[p * e + c] = E[token * e + c] + where;
          }
        }
      }
  });
}

void ReferenceBackend::embed_backward(const EmbedShape& shape, const Tensor& tokens,
                                      const Tensor& dout, const Tensor& dtable,
                                      const Tensor& dpositions, const Tensor& dpad) {
  with_type(dout.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t n = shape.length, P = shape.patch, e = shape.dim, D = P * e;
    check(dtable.size() % e == 0, "embed: a table of rows (V, dim)");
    const int64_t vocab = dtable.size() / e;
    const auto* x = elements<uint16_t>(tokens, shape.sequences * n * P, "embed: tokens");
    const T* dy = elements<T>(dout, shape.sequences * n * D, "embed: dout");
    T* dE = elements<T>(dtable, vocab * e, "embed: dtable");
    T* dat = dpositions ? elements_at_least<T>(dpositions, n * D, "embed: dpositions") : nullptr;
    T* dfirst = shape.shift ? elements<T>(dpad, D, "embed: dpad") : nullptr;
    for (int64_t s = 0; s < shape.sequences; ++s)
      for (int64_t i = 0; i < n; ++i, dy += D) {
        const int64_t from = shape.shift ? i - 1 : i;
        if (from < 0) {
          for (int64_t c = 0; c < D; ++c) dfirst[c] += dy[c];
          continue;
        }
        for (int64_t p = 0; p < P; ++p) {
          const int64_t token = x[(s * n + from) * P + p];
          check(token < vocab, "embed: a token is below the vocabulary's size");
          for (int64_t c = 0; c < e; ++c) {
            dE[token * e + c] += dy[p * e + c];
            if (dat != nullptr) dat[(from * P + p) * e + c] += dy[p * e + c];
          }
        }
      }
  });
}

void ReferenceBackend::place_forward(const PlaceShape& shape, const Tensor& in,
                                     const Tensor& positions, const Tensor& pad,
                                     const Tensor& out) {
  with_type(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t n = shape.length, D = shape.dim;
    const T* x = elements<T>(in, shape.sequences * n * D, "place: in");
    const T* at = positions ? elements_at_least<T>(positions, n * D, "place: positions") : nullptr;
    const T* first = shape.shift ? elements<T>(pad, D, "place: pad") : nullptr;
    T* y = elements<T>(out, shape.sequences * n * D, "place: out");
    for (int64_t s = 0; s < shape.sequences; ++s)
      for (int64_t i = 0; i < n; ++i, y += D) {
        const int64_t from = shape.shift ? i - 1 : i;
        for (int64_t c = 0; c < D; ++c) {
          if (from < 0)
            y[c] = first[c];
          else
            y[c] = x[(s * n + from) * D + c] + (at != nullptr ? at[from * D + c] : T{0});
        }
      }
  });
}

void ReferenceBackend::place_backward(const PlaceShape& shape, const Tensor& dout,
                                      const Tensor& din, const Tensor& dpositions,
                                      const Tensor& dpad) {
  with_type(dout.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t n = shape.length, D = shape.dim;
    const T* dy = elements<T>(dout, shape.sequences * n * D, "place: dout");
    T* dx = elements<T>(din, shape.sequences * n * D, "place: din");
    T* dat = dpositions ? elements_at_least<T>(dpositions, n * D, "place: dpositions") : nullptr;
    T* dfirst = shape.shift ? elements<T>(dpad, D, "place: dpad") : nullptr;
    for (int64_t s = 0; s < shape.sequences; ++s) {
      for (int64_t i = 0; i < n; ++i) {  // position i of the input
        const int64_t to = shape.shift ? i + 1 : i;
        for (int64_t c = 0; c < D; ++c) {
          const T g = to < n ? dy[(s * n + to) * D + c] : T{0};
          dx[(s * n + i) * D + c] = g;
          if (dat != nullptr) dat[i * D + c] += g;
        }
      }
      if (shape.shift)
        for (int64_t c = 0; c < D; ++c) dfirst[c] += dy[s * n * D + c];
    }
  });
}

void ReferenceBackend::unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  check(in.shape.rank() == 2 && in.shape[0] % length == 0, "unfold: in (rows * length, channels)");
  with_type(in.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = in.shape[0], C = in.shape[1];
    const T* x = elements<T>(in, M * C, "unfold: in");
    T* y = elements<T>(out, M * C * width, "unfold: out");
    for (int64_t r = 0; r < M; ++r)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t k = 0; k < width; ++k) {
          const int64_t t = r % length - (width - 1) + k;  // within the row
          y[(r * C + c) * width + k] = t < 0 ? T{0} : x[(r / length * length + t) * C + c];
        }
  });
}

void ReferenceBackend::unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                                       const Tensor& din) {
  check(din.shape.rank() == 2 && din.shape[0] % length == 0,
        "unfold: din (rows * length, channels)");
  with_type(din.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = din.shape[0], C = din.shape[1];
    T* dx = elements<T>(din, M * C, "unfold: din");
    const T* dy = elements<T>(dout, M * C * width, "unfold: dout");
    for (int64_t r = 0; r < M; ++r)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t k = 0; k < width; ++k) {
          const int64_t t = r % length - (width - 1) + k;
          if (t >= 0) dx[(r / length * length + t) * C + c] += dy[(r * C + c) * width + k];
        }
  });
}

}  // namespace megabyte::reference
