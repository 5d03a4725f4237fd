// Embedding, placing and shifting (eq. 1 and 2 of the paper), and the windows of the patch encoder.
#include "backends/reference/elements.h"
#include "backends/reference/reference.h"

namespace megabyte {

using namespace reference;

void ReferenceBackend::embed_forward(const EmbedShape& s, const Tensor& tokens, const Tensor& table,
                                     const Tensor& positions, const Tensor& pad,
                                     const Tensor& out) {
  const int64_t D = s.patch * s.dim;
  check(
      tokens.size() == s.sequences * s.length * s.patch && out.size() == s.sequences * s.length * D,
      "embed_forward: sizes");
  for (int64_t q = 0; q < s.sequences; ++q)
    for (int64_t i = 0; i < s.length; ++i)
      for (int64_t c = 0; c < D; ++c) {
        const int64_t at = (q * s.length + i) * D + c, from = i - (s.shift ? 1 : 0);
        if (from < 0) {
          store(out, at, load(pad, c));
          continue;
        }
        const int64_t byte = c / s.dim, e = c % s.dim;
        const int64_t id = token(tokens, (q * s.length + from) * s.patch + byte);
        store(out, at,
              load(table, id * s.dim + e) + (positions ? load(positions, from * D + c) : 0));
      }
}

void ReferenceBackend::embed_backward(const EmbedShape& s, const Tensor& tokens, const Tensor& dout,
                                      const Tensor& dtable, const Tensor& dpositions,
                                      const Tensor& dpad) {
  const int64_t D = s.patch * s.dim;
  for (int64_t q = 0; q < s.sequences; ++q)
    for (int64_t i = 0; i < s.length; ++i)
      for (int64_t c = 0; c < D; ++c) {
        const double d = load(dout, (q * s.length + i) * D + c);
        const int64_t from = i - (s.shift ? 1 : 0);
        if (from < 0) {
          add_to(dpad, c, d);
          continue;
        }
        const int64_t id = token(tokens, (q * s.length + from) * s.patch + c / s.dim);
        add_to(dtable, id * s.dim + c % s.dim, d);
        if (dpositions) add_to(dpositions, from * D + c, d);
      }
}

void ReferenceBackend::place_forward(const PlaceShape& s, const Tensor& in, const Tensor& positions,
                                     const Tensor& pad, const Tensor& out) {
  check(in.size() == s.sequences * s.length * s.dim && out.size() == in.size(),
        "place_forward: sizes");
  for (int64_t q = 0; q < s.sequences; ++q)
    for (int64_t i = 0; i < s.length; ++i)
      for (int64_t c = 0; c < s.dim; ++c) {
        const int64_t from = i - (s.shift ? 1 : 0);
        const double x = from < 0 ? load(pad, c)
                                  : load(in, (q * s.length + from) * s.dim + c) +
                                        (positions ? load(positions, from * s.dim + c) : 0);
        store(out, (q * s.length + i) * s.dim + c, x);
      }
}

void ReferenceBackend::place_backward(const PlaceShape& s, const Tensor& dout, const Tensor& din,
                                      const Tensor& dpositions, const Tensor& dpad) {
  for (int64_t q = 0; q < s.sequences; ++q)
    for (int64_t i = 0; i < s.length; ++i)
      for (int64_t c = 0; c < s.dim; ++c) {
        const int64_t to = i + (s.shift ? 1 : 0);  // where the vector of position i went
        const double d = to < s.length ? load(dout, (q * s.length + to) * s.dim + c) : 0;
        store(din, (q * s.length + i) * s.dim + c, d);
        if (dpositions) add_to(dpositions, i * s.dim + c, d);
        if (s.shift && i == 0) add_to(dpad, c, load(dout, q * s.length * s.dim + c));
      }
}

void ReferenceBackend::unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  const int64_t rows = in.shape[0], C = in.shape[1];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t k = 0; k < width; ++k) {
        const int64_t back = width - 1 - k;
        store(out, (r * C + c) * width + k, r % length >= back ? load(in, (r - back) * C + c) : 0);
      }
}

void ReferenceBackend::unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                                       const Tensor& din) {
  const int64_t rows = din.shape[0], C = din.shape[1];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t k = 0; k < width; ++k) {
        const int64_t back = width - 1 - k;
        if (r % length >= back)
          add_to(din, (r - back) * C + c, load(dout, (r * C + c) * width + k));
      }
}

void ReferenceBackend::add(const Tensor& a, const Tensor& b, const Tensor& out) {
  check(a.size() == b.size() && a.size() == out.size(), "add: sizes");
  for (int64_t i = 0; i < a.size(); ++i) store(out, i, load(a, i) + load(b, i));
}

}  // namespace megabyte
