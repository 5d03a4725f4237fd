// megabyte eval: bits per byte of whole files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/default_model.h"
#include "cli/numbers.h"
#include "cli/terminal_line.h"
#include "codec/archive.h"
#include "codec/stream_coder.h"
#include "data/byte_dataset.h"
#include "eval/evaluation.h"
#include "io/json.h"
#include "model/files.h"

namespace megabyte::cli {
namespace {

struct EvalOptions {
  std::string model, method = "basic";
  std::vector<std::string> data;
  int64_t batch = 0, limit = 0;
  bool by_position = false, word_perplexity = false, json = false;
  DeviceOptions device;
};

Evaluation evaluate(const EvalOptions& options) {
  // As an archive codes a file: in streams that begin with nothing before them, without an end.
  const bool archive = options.method == "archive";
  const ScoringMethod method = archive ? ScoringMethod::sliding : scoring_method(options.method);
  const auto backend = options.device.backend();
  const auto model = load_model(model_folder(options.model, false), *backend,
                                options.device.compute(*backend, DType::f32), false);
  const ByteDataset data(options.data, !archive && ends_documents(model->config().vocab_size));
  std::function<uint64_t(uint64_t)> piece;
  if (archive) piece = [](uint64_t bytes) { return uint64_t{1} << stream_bits_for(bytes); };
  TerminalLine line;
  const Evaluation result = megabyte::evaluate(
      *model, data, data.all(),
      {.method = method,
       .kept = archive ? std::optional(kept_in_stream(model->config())) : std::nullopt,
       .batch = options.batch,
       .limit = options.limit,
       .piece = piece,
       .on_progress = [&](const Score& so_far, int64_t bytes, double seconds) {
         if (!line.due()) return;
         const auto scored = static_cast<double>(so_far.bytes);
         line.show(fmt::format("{:5.1f}%  {:.4f} bits per byte  {:.0f} bytes/s",
                               100 * scored / static_cast<double>(bytes), so_far.bits_per_byte(),
                               scored / seconds));
       }});
  if (options.word_perplexity && result.words == 0)
    fail("{} holds no words (white space only): leave out --word-perplexity",
         fmt::join(options.data, ", "));
  return result;
}

// Bytes of the archives of what was scored, a file each: what is coded, half a byte more where each
// stream ends, and the frame around them.
uint64_t archive_bytes(const Evaluation& result) {
  double bytes = 0;
  for (const auto& [file, score] : result.files) {
    const auto original = static_cast<uint64_t>(score.bytes);
    const uint64_t stream = uint64_t{1} << stream_bits_for(original);
    bytes += score.bits_per_byte() * static_cast<double>(original) / 8 +
             0.5 * static_cast<double>((original + stream - 1) / stream) +
             static_cast<double>(frame_bytes(original));
  }
  return static_cast<uint64_t>(std::llround(bytes));
}

void print_json(const EvalOptions& options, const Evaluation& result) {
  nlohmann::ordered_json out{{"bpb", result.total.bits_per_byte()},
                             {"bytes", result.total.bytes},
                             {"method", options.method},
                             {"seconds", result.seconds},
                             {"forward_bytes", result.total.forward_bytes},
                             {"flops_per_byte", result.total.flops_per_byte()}};
  if (result.ends) out["documents"] = result.documents;
  if (options.method == "archive") out["archive_bytes"] = archive_bytes(result);
  if (options.by_position)
    out["by_position"] = result.total.bits_per_byte_by_place();  // NaN is written as null
  if (options.word_perplexity) {
    out["words"] = result.words;
    out["word_perplexity"] = result.word_perplexity();
  }
  if (result.files.size() > 1) {
    out["files"] = nlohmann::ordered_json::array();
    for (const auto& [file, score] : result.files)
      out["files"].push_back(
          {{"file", file}, {"bpb", score.bits_per_byte()}, {"bytes", score.bytes}});
  }
  // File names may be of any bytes, JSON may not.
  fmt::print("{}\n", to_text(out));
}

void print_text(const EvalOptions& options, const Evaluation& result) {
  const Score& total = result.total;
  if (result.files.size() > 1)
    for (const auto& [file, score] : result.files)
      fmt::print("{:.4f}  {:>12} bytes  {}\n", score.bits_per_byte(), score.bytes, file);
  fmt::print(
      "{:.4f} bits per byte over {} bytes{}\n", total.bits_per_byte(), total.bytes,
      result.ends ? fmt::format(", the ends of {} documents scored too", result.documents) : "");
  fmt::print("method {}: for each byte scored {:.2f} bytes run and {}; {:.1f} s, {:.0f} bytes/s\n",
             options.method, total.runs_per_byte(), scaled(total.flops_per_byte(), "FLOP"),
             result.seconds, static_cast<double>(total.bytes) / result.seconds);
  if (options.method == "archive")
    fmt::print("as archives, headers and tables counted: about {} bytes\n", archive_bytes(result));
  if (options.word_perplexity)
    fmt::print("word-level perplexity {:.6g} over {} words\n", result.word_perplexity(),
               result.words);
  if (options.by_position) {
    fmt::print("place in the patch, bits per byte\n");
    const std::vector<double> bpb = total.bits_per_byte_by_place();
    for (size_t i = 0; i < bpb.size(); ++i)
      fmt::print("{:>6}  {}\n", i, std::isnan(bpb[i]) ? "-" : fmt::format("{:.4f}", bpb[i]));
  }
}

void eval(const EvalOptions& options) {
  const Evaluation result = evaluate(options);
  if (options.json)
    print_json(options, result);
  else
    print_text(options, result);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "score files in bits per byte");
  command->footer(
      "Each file is a sequence of its own, of any length, and each of its bytes is scored once. A "
      "model\nthat knows the ends of documents scores each document by itself, with its end.\n"
      "  basic            windows of the context, side by side\n"
      "  sliding          windows that advance by half a context and score their new half; twice "
      "the "
      "cost\n"
      "  strided          two passes half a patch apart that score the first half of each patch; "
      "twice the cost\n"
      "  sliding-strided  both; four times the cost\n"
      "  archive          windows that keep an eighth, in the streams of an archive: with "
      "--device\n"
      "                   exact, the bits that 'megabyte compress' codes; and its archives' size\n"
      "Perceiver AR's windows advance by its latents, or sliding by half of them.");
  add_model_option(*command, options->model);
  command->add_option("--data", options->data, "files, folders or patterns of raw bytes")
      ->required();
  command
      ->add_option("--method", options->method,
                   "basic, sliding, strided, sliding-strided or archive")
      ->check(CLI::IsMember({"basic", "sliding", "strided", "sliding-strided", "archive"}))
      ->capture_default_str();
  command->add_option("--batch", options->batch, "windows run at once; 0 chooses")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--limit", options->limit, "score only the first bytes of the data; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--by-position", options->by_position,
                    "also by place in the coarsest stage's patch");
  command->add_flag("--word-perplexity", options->word_perplexity,
                    "also the perplexity of words (separated by white space)");
  command->add_flag("--json", options->json, "print one JSON object");
  options->device.add_to(*command, "default f32");
  command->callback([options] { eval(*options); });
}

}  // namespace megabyte::cli
