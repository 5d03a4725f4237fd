#include "backends/cpu/onednn.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <tuple>
#include <unordered_map>

#include "base/error.h"

namespace megabyte::cpu {
namespace {

struct Key {
  int64_t m, n, k;
  bool transposed_a, transposed_b, biased, accumulate;
  DType a, b, c;
  bool operator==(const Key&) const = default;
};

struct Hash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    const auto mix = [&h](int64_t x) {
      h = (h ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    };
    mix(key.m);
    mix(key.n);
    mix(key.k);
    mix(int64_t{key.transposed_a} | int64_t{key.transposed_b} << 1 | int64_t{key.biased} << 2 |
        int64_t{key.accumulate} << 3 | static_cast<int64_t>(key.a) << 8 |
        static_cast<int64_t>(key.b) << 16 | static_cast<int64_t>(key.c) << 24);
    return static_cast<size_t>(h);
  }
};

dnnl::memory::data_type type_of(DType dtype) {
  check(dtype == DType::f32 || dtype == DType::bf16, "products are of f32 and bf16 matrices");
  return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::memory::desc describe(int64_t rows, int64_t cols, DType dtype, bool transposed) {
  const dnnl::memory::dims strides =
      transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{cols, 1};
  return {dnnl::memory::dims{rows, cols}, type_of(dtype), strides};
}

struct Product {
  dnnl::matmul primitive;
  dnnl::memory a, b, bias, c;
  std::unordered_map<int, dnnl::memory> arguments;
};

}  // namespace

struct Products::Cache {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<Key, Product, Hash> products;

  Product make(const Key& key) {
    const auto a = describe(key.m, key.k, key.a, key.transposed_a);
    const auto b = describe(key.k, key.n, key.b, key.transposed_b);
    const auto c = describe(key.m, key.n, key.c, false);
    const auto bias = describe(1, key.n, DType::f32, false);
    dnnl::primitive_attr attributes;
    if (key.accumulate) {
      dnnl::post_ops post;
      post.append_sum(1.0f);
      attributes.set_post_ops(post);
    }
    const auto desc = key.biased ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
    Product product;
    product.primitive = dnnl::matmul({desc, attributes, engine});
    product.a = dnnl::memory(a, engine, nullptr);
    product.b = dnnl::memory(b, engine, nullptr);
    product.c = dnnl::memory(c, engine, nullptr);
    product.arguments = {
        {DNNL_ARG_SRC, product.a}, {DNNL_ARG_WEIGHTS, product.b}, {DNNL_ARG_DST, product.c}};
    if (key.biased) {
      product.bias = dnnl::memory(bias, engine, nullptr);
      product.arguments.emplace(DNNL_ARG_BIAS, product.bias);
    }
    return product;
  }
};

Products::Products(int threads) : threads_(threads), cache_(std::make_unique<Cache>()) {}
Products::~Products() = default;

void Products::multiply(const Matrix& a, const Matrix& b, const Tensor& bias, const Tensor& c,
                        bool accumulate) {
  omp_set_num_threads(threads_);  // of this thread's parallel regions; oneDNN takes no number
  const Key key{a.rows,     b.cols,     a.cols,         a.transposed,   b.transposed,
                bool{bias}, accumulate, a.tensor.dtype, b.tensor.dtype, c.dtype};
  auto found = cache_->products.find(key);
  if (found == cache_->products.end())
    found = cache_->products.emplace(key, cache_->make(key)).first;
  Product& product = found->second;
  product.a.set_data_handle(a.tensor.data);
  product.b.set_data_handle(b.tensor.data);
  product.c.set_data_handle(c.data);
  if (bias) product.bias.set_data_handle(bias.data);
  product.primitive.execute(cache_->stream, product.arguments);
}

bool Products::take_bf16() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  constexpr auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (isa & needed) == needed;
}

const char* Products::description() {
  static const std::string text = [] {
    const auto* version = dnnl::version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
  }();
  return text.c_str();
}

}  // namespace megabyte::cpu
