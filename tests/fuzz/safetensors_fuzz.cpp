// Any bytes are either refused with an Error or a file whose tensors lie inside it. Each input is
// tried as a whole file, and as a header (to its last brace) with data, given the right length.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"
#include "io/safetensors.h"

namespace {

void parse(const std::string& file) {
  using namespace megabyte;
  try {
    for (const auto& [name, entry] :
         parse_safetensors(std::as_bytes(std::span(file)), "fuzz").tensors) {
      const auto bytes = static_cast<size_t>(entry.shape.size()) * size_of(entry.dtype);
      if (entry.begin > entry.end || entry.end > file.size() || entry.end - entry.begin != bytes)
        std::abort();
    }
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  parse(input);
  const uint64_t header = input.rfind('}') + 1;  // 0 without a brace
  std::string length(sizeof header, '\0');
  std::memcpy(length.data(), &header, sizeof header);
  parse(length + input);
  return 0;
}
