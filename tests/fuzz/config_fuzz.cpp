// Any text is either refused with an Error or a config that survives writing and reading.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megabyte;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const Config config = parse_config(text, "fuzz");
    if (parse_config(to_json(config), "again") != config) std::abort();
  } catch (const Error&) {
  }
  try {
    Config config = parse_config(
        R"({"stages": [{"length": 4, "dim": 8, "layers": 1, "heads": 2, "ffn": 8}]})", "base");
    set_key(config, text);
  } catch (const Error&) {
  }
  return 0;
}
