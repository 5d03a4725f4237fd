#include "backends/cuda/device_backend.h"

#include "backends/cuda/kernels.h"
#include "base/error.h"

namespace megabyte::cuda {

void DeviceBackend::to_host(void* dst, const Tensor& src) {
  check_cuda(cudaMemcpyAsync(dst, src.data, src.bytes(), cudaMemcpyDeviceToHost, context_.stream()),
             "download");
  synchronize();
}

void DeviceBackend::synchronize() {
  check_cuda(cudaStreamSynchronize(context_.stream()), "waiting for the device");
}

void DeviceBackend::zero(const Tensor& x) {
  check_cuda(cudaMemsetAsync(x.data, 0, x.bytes(), context_.stream()), "zero");
}

void DeviceBackend::convert(const Tensor& src, const Tensor& dst) {
  check(src.size() == dst.size(), "convert: sizes differ");
  cuda::convert(context_, src, dst);
}

void DeviceBackend::copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst,
                              int64_t dst_stride, int64_t rows, int64_t cols) {
  check(src.dtype == dst.dtype, "copy_rows: one element type");
  check(rows == 0 || ((rows - 1) * src_stride + cols <= src.size() &&
                      (rows - 1) * dst_stride + cols <= dst.size()),
        "copy_rows: the rows lie inside both tensors");
  if (rows == 0 || cols == 0) return;
  const size_t size = size_of(src.dtype);
  const auto bytes = [size](int64_t elements) { return static_cast<size_t>(elements) * size; };
  check_cuda(
      cudaMemcpy2DAsync(dst.data, bytes(dst_stride), src.data, bytes(src_stride), bytes(cols),
                        static_cast<size_t>(rows), cudaMemcpyDeviceToDevice, context_.stream()),
      "copy_rows");
}

void DeviceBackend::embed_forward(const EmbedShape& shape, const Tensor& tokens,
                                  const Tensor& table, const Tensor& positions, const Tensor& pad,
                                  const Tensor& out) {
  check(tokens.size() == shape.sequences * shape.length * shape.patch, "embed: tokens");
  check(out.size() == tokens.size() * shape.dim, "embed: out");
  cuda::embed_forward(context_, shape, tokens, table, positions, pad, out);
}

void DeviceBackend::place_forward(const PlaceShape& shape, const Tensor& in,
                                  const Tensor& positions, const Tensor& pad, const Tensor& out) {
  check(in.size() == shape.sequences * shape.length * shape.dim && out.size() == in.size(),
        "place: in and out");
  cuda::place_forward(context_, shape, in, positions, pad, out);
}

void DeviceBackend::unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) {
  check(out.size() == in.size() * width && in.shape[0] % length == 0, "unfold: out");
  cuda::unfold(context_, in, length, width, out);
}

void DeviceBackend::add(const Tensor& a, const Tensor& b, const Tensor& out) {
  check(a.size() == out.size() && b.size() == out.size(), "add: sizes differ");
  cuda::add(context_, a, b, out);
}

void DeviceBackend::cache_keys(const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                               const Tensor& values) {
  check(shape.first >= 0 && shape.first <= shape.last && shape.last <= shape.length &&
            shape.last - shape.first <= shape.capacity,
        "cache: positions of the row, as many as there is room for");
  check(qkv.size() == shape.batch * shape.length * 3 * shape.dim() &&
            keys.size() == shape.batch * shape.capacity * shape.dim() &&
            values.size() == keys.size() && keys.dtype == qkv.dtype && values.dtype == qkv.dtype,
        "cache: qkv, keys and values");
  cuda::cache_keys(context_, shape, qkv, keys, values);
}

void DeviceBackend::sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
                           const Tensor& tokens) {
  check(logits.size() == shape.batch * shape.vocab && tokens.size() == shape.batch &&
            (shape.temperature == 0 || (draws && draws.size() == shape.batch)),
        "sample: logits (batch, vocab), a draw for each row");
  cuda::sample(context_, shape, logits, draws, tokens);
}

}  // namespace megabyte::cuda
