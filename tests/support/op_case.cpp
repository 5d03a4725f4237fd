#include "support/op_case.h"

#include <cstring>
#include <limits>

namespace megabyte::test {

Fill normal(double scale) {
  return [scale](Random& random, int64_t) { return scale * random.normal(); };
}
Fill between(double low, double high) {
  return [=](Random& random, int64_t) { return low + (high - low) * random.uniform01(); };
}
Fill below(int64_t bound) {
  return [bound](Random& random, int64_t) {
    return static_cast<double>(random.below(static_cast<uint64_t>(bound)));
  };
}
Fill constant(double x) {
  return [x](Random&, int64_t) { return x; };
}
Fill identity(int64_t n) {
  return [n](Random&, int64_t i) { return i / n == i % n ? 1.0 : 0.0; };
}

Tensor Tensors::operator[](std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? Tensor{} : found->second;
}

const std::vector<OpCase>& all_op_cases() {
  static const std::vector<OpCase> cases = [] {
    std::vector<OpCase> all;
    for (const auto& some : {memory_cases(), input_cases(), linear_cases(), norm_cases(),
                             attention_cases(), loss_cases(), decode_cases()})
      all.insert(all.end(), some.begin(), some.end());
    return all;
  }();
  return cases;
}

DType dtype_of_role(Role role, Backend& backend, DType compute) {
  switch (role) {
    case Role::compute:
      return compute;
    case Role::residual:
      return backend.residual_dtype(compute);
    case Role::residual_gradient:
      return backend.residual_gradient_dtype(compute);
    case Role::master:
      return master_dtype(compute);
    case Role::f64:
      return DType::f64;
    case Role::tokens:
      break;
  }
  return DType::u16;
}

double rounded(double x, DType dtype) {
  if (dtype == DType::f32) return static_cast<float>(x);
  if (dtype == DType::bf16) return static_cast<float>(bf16(static_cast<float>(x)));
  return x;
}

Values draw_values(const OpCase& c, Backend& backend, DType compute, uint64_t seed) {
  Values values;
  uint64_t stream = 0;
  for (const Argument& a : c.arguments) {
    Random random(seed, stream++);
    if (a.use == Use::output || a.use == Use::scratch || a.use == Use::derived) continue;
    const DType dtype = dtype_of_role(a.role, backend, compute);
    std::vector<double>& v = values[a.name];
    for (int64_t i = 0; i < a.shape.size(); ++i) v.push_back(rounded(a.fill(random, i), dtype));
  }
  return values;
}

namespace {

// `tensor`'s bytes on the host, and its elements as doubles in and out.
class Staging {
 public:
  explicit Staging(const Tensor& like)
      : bytes_(like.bytes()), host_{bytes_.data(), like.dtype, like.shape} {}
  std::byte* data() { return bytes_.data(); }

  double get(int64_t i) const {
    switch (host_.dtype) {
      case DType::f64:
        return host_.as<double>()[i];
      case DType::f32:
        return host_.as<float>()[i];
      case DType::bf16:
        return static_cast<float>(host_.as<bf16>()[i]);
      default:
        return host_.as<uint16_t>()[i];
    }
  }
  void put(int64_t i, double x) {
    switch (host_.dtype) {
      case DType::f64:
        host_.as<double>()[i] = x;
        break;
      case DType::f32:
        host_.as<float>()[i] = static_cast<float>(x);
        break;
      case DType::bf16:
        host_.as<bf16>()[i] = bf16(static_cast<float>(x));
        break;
      default:
        host_.as<uint16_t>()[i] = static_cast<uint16_t>(x);
    }
  }

 private:
  std::vector<std::byte> bytes_;
  Tensor host_;
};

}  // namespace

Values call_with(const OpCase& c, Backend& backend, DType compute, const Call& call,
                 const Values& before) {
  Tensors tensors;
  std::vector<Buffer> buffers;
  for (const Argument& a : c.arguments) {
    Tensor t{nullptr, dtype_of_role(a.role, backend, compute), a.shape};
    buffers.push_back(backend.allocate(t.bytes()));
    t.data = buffers.back().data();
    Staging staging(t);
    const auto known = before.find(a.name);
    const double poison = t.dtype == DType::u16 ? 0xffff : std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < t.size(); ++i)
      staging.put(i, known == before.end() ? poison : known->second[static_cast<size_t>(i)]);
    backend.from_host(t, staging.data());
    tensors.set(a.name, t);
  }
  call(backend, tensors);
  Values after;
  for (const Argument& a : c.arguments) {
    const Tensor t = tensors[a.name];
    Staging staging(t);
    backend.to_host(staging.data(), t);
    std::vector<double>& v = after[a.name];
    for (int64_t i = 0; i < t.size(); ++i) v.push_back(staging.get(i));
  }
  return after;
}

}  // namespace megabyte::test
