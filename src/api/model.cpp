#include "base/error.h"
#include "data/byte_dataset.h"
#include "eval/scoring.h"
#include "generate/generator.h"
#include "megabyte/megabyte.h"
#include "model/files.h"
#include "model/hierarchy.h"
#include "ops/ops.h"

namespace megabyte {

struct Model::Implementation {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Hierarchy> hierarchy;
};

Model::Model(const std::filesystem::path& folder, const ModelOptions& options)
    : implementation_(std::make_unique<Implementation>()) {
  implementation_->backend = make_backend(options.device, options.threads);
  const DType dtype = dtype_from_name(options.dtype);
  if (!implementation_->backend->supports(dtype))
    fail("the {} backend does not compute in {}: use another dtype or device",
         implementation_->backend->name(), options.dtype);
  implementation_->hierarchy = load_model(folder, *implementation_->backend, dtype, false);
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

std::int64_t Model::parameters() const { return implementation_->hierarchy->parameters().count(); }

std::int64_t Model::context() const { return implementation_->hierarchy->config().context(); }

double Model::bits_per_byte(std::span<const std::uint8_t> bytes, const std::string& method) {
  if (bytes.empty()) fail("there are no bytes to score");
  constexpr int64_t kBatch = 8;
  Scorer scorer(*implementation_->hierarchy, scoring_method(method), kBatch);
  return scorer.score("the given bytes", bytes).bits_per_byte();
}

void Model::generate(std::span<const std::uint8_t> prompt, const GenerationOptions& options,
                     const std::function<bool(std::uint8_t)>& on_byte) {
  Hierarchy& hierarchy = *implementation_->hierarchy;
  Generator generator(hierarchy, 1,
                      {.temperature = options.temperature,
                       .top_k = options.top_k,
                       .top_p = options.top_p,
                       .seed = options.seed});
  generator.start(prompt_symbols(prompt, hierarchy.config()), 0);
  for (std::int64_t i = 0; i < options.bytes; ++i) {
    const uint16_t symbol = generator.next().front();
    if (symbol >= kEndOfDocument) return;
    if (!on_byte(static_cast<std::uint8_t>(symbol))) return;
  }
}

std::vector<std::uint8_t> Model::generate(std::span<const std::uint8_t> prompt,
                                          const GenerationOptions& options) {
  std::vector<std::uint8_t> bytes;
  generate(prompt, options, [&](std::uint8_t byte) {
    bytes.push_back(byte);
    return true;
  });
  return bytes;
}

}  // namespace megabyte
