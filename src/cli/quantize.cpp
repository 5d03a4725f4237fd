// megabyte quantize: a model's matrices in 8 bits, and what that costs.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/numbers.h"
#include "data/byte_dataset.h"
#include "eval/evaluation.h"
#include "io/safetensors.h"
#include "model/files.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  std::string model, out;
  std::vector<std::string> data;
  int64_t limit = 0;
  int threads = 0;
  bool overwrite = false, json = false;
};

// By windows side by side, on `device` in float32.
Score score_on(const std::string& device, const QuantizeOptions& options) {
  const auto backend = make_backend(device, options.threads);
  const auto model = load_model(options.model, *backend, DType::f32, false);
  const ByteDataset data(options.data, ends_documents(model->config().vocab_size));
  return evaluate(*model, data, data.all(), {.limit = options.limit}).total;
}

void quantize(const QuantizeOptions& options) {
  const fs::path out = options.out;
  if (!options.overwrite && fs::exists(out / kModelFile))
    fail("{} holds a model: name another --out, or pass --overwrite", out.string());
  const auto backend = make_backend("reference");
  const auto model = load_model(options.model, *backend, DType::f32, false);
  Metadata metadata;
  {
    const SafetensorsFile file(fs::path(options.model) / kModelFile);
    for (const auto& [name, entry] : file.tensors())
      if (entry.dtype == DType::i8)
        fail("{} is quantised already: its tensor {} is I8", file.name(), name);
    metadata = file.metadata();
  }
  const auto before = fs::file_size(fs::path(options.model) / kModelFile);
  // Before anything is written: the exact backend makes the same of the model as of its quantised
  // form.
  std::optional<Score> single, eight;
  if (!options.data.empty()) {
    single = score_on("auto", options);
    eight = score_on("exact", options);
  }
  fs::create_directories(out);
  save_quantised_model(out, *model, metadata);
  const auto after = fs::file_size(out / kModelFile);

  const double more = single ? 100 * (eight->bits_per_byte() / single->bits_per_byte() - 1) : 0;
  if (options.json) {
    nlohmann::ordered_json report{{"parameters", model->parameters().count()},
                                  {"file_bytes_before", before},
                                  {"file_bytes", after}};
    if (single)
      report["loss"] = {{"bytes", single->bytes},
                        {"bpb_float32", single->bits_per_byte()},
                        {"bpb_int8", eight->bits_per_byte()},
                        {"percent", more}};
    fmt::print("{}\n", report.dump(2));
    return;
  }
  fmt::print("{}: {} instead of {}\n", (out / kModelFile).string(),
             memory_size(static_cast<double>(after)), memory_size(static_cast<double>(before)));
  if (single)
    fmt::print("{:.4f} bits per byte in float32, {:.4f} in int8 over {} bytes: {:+.2f}%\n",
               single->bits_per_byte(), eight->bits_per_byte(), single->bytes, more);
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = app.add_subcommand("quantize", "store a model's matrices in 8 bits");
  command->footer(
      "The exact backend (--device exact) makes the same of a model as of its quantised form: it "
      "multiplies\nin 8 bits either way. The other backends run a quantised model in float.");
  command->add_option("--model", options->model, "folder of the model")->required();
  command->add_option("--out", options->out, "folder of the quantised model")->required();
  command->add_option("--data", options->data,
                      "report the bits per byte of these files, folders or patterns in float32 and "
                      "in int8");
  command->add_option("--limit", options->limit, "score only the first bytes of the data; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0 takes all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--overwrite", options->overwrite, "replace the model in --out");
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([options] { quantize(*options); });
}

}  // namespace megabyte::cli
