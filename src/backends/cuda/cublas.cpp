#include "backends/cuda/cublas.h"

#include <dlfcn.h>

#include <string>

#include "base/error.h"

namespace megabyte::cuda {
namespace {

// As the system finds it, else where the toolkit was when this was built.
void* open_library() {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  for (const std::string& path : {name, MEGABYTE_CUDA_LIBRARIES "/" + name})
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  fail("{} cannot be loaded: install cuBLAS of CUDA {} or name its folder in LD_LIBRARY_PATH", name,
       CUBLAS_VER_MAJOR);
}

Cublas load() {
  void* library = open_library();
  const auto find = [library](auto& function, const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr) fail("the loaded cuBLASLt has no function {}", name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Cublas c{};
  find(c.create, "cublasLtCreate");
  find(c.destroy, "cublasLtDestroy");
  find(c.version, "cublasLtGetVersion");
  find(c.status_string, "cublasLtGetStatusString");
  find(c.matmul, "cublasLtMatmul");
  find(c.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(c.description_create, "cublasLtMatmulDescCreate");
  find(c.description_destroy, "cublasLtMatmulDescDestroy");
  find(c.description_set, "cublasLtMatmulDescSetAttribute");
  find(c.layout_create, "cublasLtMatrixLayoutCreate");
  find(c.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(c.preference_create, "cublasLtMatmulPreferenceCreate");
  find(c.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(c.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  return c;
}

}  // namespace

const Cublas& cublas() {
  static const Cublas loaded = load();
  return loaded;
}

}  // namespace megabyte::cuda
