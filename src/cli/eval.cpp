// megabyte eval: bits per byte of whole files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/terminal_line.h"
#include "data/byte_dataset.h"
#include "eval/scoring.h"
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

struct FileScore {
  std::string file;
  Score score;
};

struct Evaluation {
  std::vector<FileScore> files;
  Score total;
  int64_t words = 0, documents = 0;
  double seconds = 0;
  bool ends = false;  // of documents are symbols

  double word_perplexity() const { return std::exp(total.nats / static_cast<double>(words)); }
};

Evaluation evaluate(const EvalOptions& options) {
  const ScoringMethod method = scoring_method(options.method);
  const auto backend = options.device.backend();
  const auto model =
      load_model(options.model, *backend, options.device.compute(*backend, DType::f32), false);
  const ByteDataset data(options.data, ends_documents(model->config().vocab_size));
  int64_t bytes = 0;
  for (const ByteDataset::Document& document : data.documents())
    bytes += static_cast<int64_t>(document.bytes);
  if (options.limit > 0) bytes = std::min(bytes, options.limit);
  constexpr int64_t kBytesAtOnce = 16384;
  const int64_t context = model->config().context();
  const int64_t batch =
      options.batch > 0 ? options.batch : std::max<int64_t>(1, kBytesAtOnce / context);

  const auto start = std::chrono::steady_clock::now();
  Scorer scorer(*model, method, batch);
  TerminalLine line;
  Evaluation result;
  result.ends = ends_documents(model->config().vocab_size);
  std::optional<MappedFile> file;
  std::optional<size_t> open;
  for (const ByteDataset::Document& document : data.documents()) {
    const auto left = static_cast<uint64_t>(bytes - result.total.bytes);
    if (left == 0) break;
    const std::string name = data.files()[document.file].path.string();
    if (open != document.file) {
      file.reset();
      file.emplace(name);
      open = document.file;
      result.files.push_back({name, {}});
    }
    if (file->bytes().size() < document.from + document.bytes)
      fail("{} was shortened while it was in use", name);
    const size_t size = std::min(document.bytes, left);
    const std::span part(reinterpret_cast<const uint8_t*>(file->bytes().data()) + document.from,
                         size);
    const Score score = scorer.score(
        name, part,
        [&](const Score& so_far) {
          if (!line.due()) return;
          Score done = result.total;
          done += so_far;
          const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
          const auto scored = static_cast<double>(done.bytes);
          line.show(fmt::format("{:5.1f}%  {:.4f} bits per byte  {:.0f} bytes/s",
                                100 * scored / static_cast<double>(bytes), done.bits_per_byte(),
                                scored / spent.count()));
        },
        size == document.bytes);
    result.files.back().score += score;
    result.total += score;
    ++result.documents;
    if (options.word_perplexity) result.words += count_words(part);
  }
  if (options.word_perplexity && result.words == 0)
    fail("{} holds no words (white space only): leave out --word-perplexity",
         fmt::join(options.data, ", "));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  result.seconds = seconds.count();
  return result;
}

std::vector<double> by_position(const Score& score) {
  std::vector<double> bpb(score.nats_at.size());
  for (size_t i = 0; i < bpb.size(); ++i)
    bpb[i] = score.symbols_at[i] > 0 ? score.bits_per_byte_at(i) : std::nan("");
  return bpb;
}

void print_json(const EvalOptions& options, const Evaluation& result) {
  nlohmann::ordered_json out{{"bpb", result.total.bits_per_byte()},
                             {"bytes", result.total.bytes},
                             {"method", options.method},
                             {"seconds", result.seconds},
                             {"forward_bytes", result.total.forward_bytes}};
  if (result.ends) out["documents"] = result.documents;
  if (options.by_position)
    out["by_position"] = by_position(result.total);  // NaN is written as null
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
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_text(const EvalOptions& options, const Evaluation& result) {
  const Score& total = result.total;
  if (result.files.size() > 1)
    for (const auto& [file, score] : result.files)
      fmt::print("{:.4f}  {:>12} bytes  {}\n", score.bits_per_byte(), score.bytes, file);
  fmt::print(
      "{:.4f} bits per byte over {} bytes{}\n", total.bits_per_byte(), total.bytes,
      result.ends ? fmt::format(", the ends of {} documents scored too", result.documents) : "");
  fmt::print("method {}: {:.2f} bytes run for each scored, {:.1f} s, {:.0f} bytes/s\n",
             options.method,
             static_cast<double>(total.forward_bytes) / static_cast<double>(total.bytes),
             result.seconds, static_cast<double>(total.bytes) / result.seconds);
  if (options.word_perplexity)
    fmt::print("word-level perplexity {:.6g} over {} words\n", result.word_perplexity(),
               result.words);
  if (options.by_position) {
    fmt::print("place in the patch, bits per byte\n");
    const std::vector<double> bpb = by_position(total);
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
      "Perceiver AR's windows advance by its latents, or sliding by half of them.");
  command->add_option("--model", options->model, "folder of the model")->required();
  command->add_option("--data", options->data, "files, folders or patterns of raw bytes")
      ->required();
  command->add_option("--method", options->method, "basic, sliding, strided or sliding-strided")
      ->check(CLI::IsMember({"basic", "sliding", "strided", "sliding-strided"}))
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
