#include "codec/model_bytes.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ops/quantised_rows.h"

namespace megabyte {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

enum Form : uint8_t { kFloats = 0, kQuantised = 1 };

int64_t rows_of(const ParameterSpec& spec) { return spec.shape.rank() > 1 ? spec.shape[0] : 1; }

template <class T>
void append(std::vector<uint8_t>& to, const T* values, size_t count) {
  const size_t at = to.size();
  to.resize(at + count * sizeof(T));
  std::memcpy(to.data() + at, values, count * sizeof(T));
}

void append_tensor(std::vector<uint8_t>& to, const ParameterSpec& spec,
                   const std::vector<float>& values) {
  const auto rows = static_cast<size_t>(rows_of(spec)), width = values.size() / rows;
  const auto [q, scales] =
      quantise_rows(values.data(), static_cast<int64_t>(rows), static_cast<int64_t>(width));
  bool same = true;
  for (size_t i = 0; i < values.size(); ++i)
    same = same && std::bit_cast<uint32_t>(static_cast<float>(q[i]) * scales[i / width]) ==
                       std::bit_cast<uint32_t>(values[i]);
  const Form form = spec.decayed() || same ? kQuantised : kFloats;
  to.push_back(form);
  if (form == kFloats) return append(to, values.data(), values.size());
  append(to, scales.data(), rows);
  append(to, q.data(), q.size());
}

class Reader {
 public:
  Reader(std::span<const uint8_t> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  std::span<const uint8_t> take(uint64_t count) {
    if (count > bytes_.size()) damaged();
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  template <class T>
  std::vector<T> take_values(size_t count) {
    const auto bytes = take(count * sizeof(T));
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  uint8_t take_byte() { return take(1)[0]; }
  bool empty() const { return bytes_.empty(); }
  [[noreturn]] void damaged() const { fail("{}: the model inside is damaged", where_); }

 private:
  std::span<const uint8_t> bytes_;
  const std::string& where_;
};

std::vector<float> take_tensor(Reader& in, const ParameterSpec& spec) {
  const auto rows = static_cast<size_t>(rows_of(spec)),
             size = static_cast<size_t>(spec.shape.size());
  const uint8_t form = in.take_byte();
  if (form != kQuantised && (form != kFloats || spec.decayed())) in.damaged();
  std::vector<float> values;
  if (form == kFloats) {
    values = in.take_values<float>(size);
  } else {
    const std::vector<float> scales = in.take_values<float>(rows);
    const std::vector<int8_t> q = in.take_values<int8_t>(size);
    values.resize(size);
    for (size_t i = 0; i < size; ++i)
      values[i] = static_cast<float>(q[i]) * scales[i / (size / rows)];
  }
  for (const float x : values)
    if (!std::isfinite(x)) in.damaged();
  return values;
}

}  // namespace

std::vector<uint8_t> pack_model(const Hierarchy& model) {
  const std::string config = to_json(model.config());
  const auto length = static_cast<uint32_t>(config.size());
  std::vector<uint8_t> bytes;
  append(bytes, &length, 1);
  append(bytes, config.data(), config.size());
  for_each_parameter(model.config(), [&](const ParameterSpec& spec) {
    std::vector<float> values(static_cast<size_t>(spec.shape.size()));
    model.backend().to_host(values.data(), model.parameters().master(spec.name));
    append_tensor(bytes, spec, values);
  });
  return bytes;
}

std::unique_ptr<Hierarchy> unpack_model(std::span<const uint8_t> bytes, Backend& backend,
                                        const std::string& where) {
  Reader in(bytes, where);
  const auto text = in.take(in.take_values<uint32_t>(1)[0]);
  const Config config = parse_config(std::string(text.begin(), text.end()),
                                     fmt::format("{}: the model inside", where));
  // Before memory is asked for: are the tensors there?
  Reader measure = in;
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    const auto size = static_cast<uint64_t>(spec.shape.size());
    if (measure.take_byte() == kFloats)
      measure.take(size * sizeof(float));
    else
      measure.take(static_cast<uint64_t>(rows_of(spec)) * sizeof(float) + size);
  });
  if (!measure.empty()) in.damaged();
  auto model = std::make_unique<Hierarchy>(config, backend, DType::f32, false);
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    backend.from_host(model->parameters().master(spec.name), take_tensor(in, spec).data());
  });
  model->parameters().refresh_copies();
  return model;
}

}  // namespace megabyte
