// The library's public face: load a trained model, score bytes with it, generate bytes from it.
//
//   megabyte::Model model("folder");                      // config.json and model.safetensors
//   double bpb = model.bits_per_byte(bytes);
//   std::vector<std::uint8_t> more = model.generate(prompt, {.bytes = 200, .temperature = 0.8});
//
// Every failure is a std::runtime_error whose message says what was wrong, where, and what to do. A
// Model is used by one thread at a time; it runs on several by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace megabyte {

struct ModelOptions {
  std::string device = "auto";  // auto, cpu, cuda, reference
  std::string dtype = "f32";    // f32, bf16; the reference also f64
  int threads = 0;              // 0: all cores
};

struct GenerationOptions {
  std::int64_t bytes = 256;  // at most; a model with an end-of-document symbol may stop before
  double temperature = 1;    // 0: always the likeliest byte
  std::int64_t top_k = 0;    // draw from the k likeliest; 0: off
  double top_p = 1;          // draw from the likeliest whose probabilities reach p; 1: off
  std::uint64_t seed = 0;    // the same seed gives the same bytes
};

class Model {
 public:
  explicit Model(const std::filesystem::path& folder, const ModelOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  std::int64_t parameters() const;
  std::int64_t context() const;  // bytes that the model sees at once

  // Mean bits per byte of any number of bytes (at least one), each scored exactly once (by a model
  // with an end-of-document symbol as one document, with its end). method:
  // basic, sliding, strided, sliding-strided (what each does and costs: `megabyte eval --help`).
  double bits_per_byte(std::span<const std::uint8_t> bytes, const std::string& method = "basic");

  // The bytes that follow `prompt` (any length, also none). A model with an end-of-document symbol
  // takes it for the beginning of a document.
  std::vector<std::uint8_t> generate(std::span<const std::uint8_t> prompt,
                                     const GenerationOptions& options = {});
  // The same byte by byte, as they come, until `on_byte` returns false.
  void generate(std::span<const std::uint8_t> prompt, const GenerationOptions& options,
                const std::function<bool(std::uint8_t)>& on_byte);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace megabyte
