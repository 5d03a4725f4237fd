// megabyte generate: samples bytes from a model, to stdout as they come or into files.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/default_model.h"
#include "data/byte_dataset.h"
#include "generate/generator.h"
#include "io/atomic_file.h"
#include "model/files.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;

struct GenerateOptions {
  std::string model, prompt, prompt_file, out;
  bool echo = false, overwrite = false, json = false;
  int64_t bytes = 1024, samples = 1, batch = 16;
  SamplingOptions sampling;
  DeviceOptions device;
};

volatile std::sig_atomic_t interrupted = 0;

// The first SIGINT ends the run after the byte in hand; the second kills as ever.
void end_on_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

std::string read_prompt(const GenerateOptions& options) {
  if (options.prompt_file.empty()) return options.prompt;
  const auto whole = [](std::istream& in) {
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  if (options.prompt_file == "-") return whole(std::cin);
  if (!fs::is_regular_file(options.prompt_file) && fs::exists(options.prompt_file) &&
      fs::is_directory(options.prompt_file))
    fail("{} is a folder: --prompt-file takes a file, or - for stdin", options.prompt_file);
  std::ifstream in(options.prompt_file, std::ios::binary);
  if (!in)
    fail("cannot read {}: {}; check --prompt-file", options.prompt_file, std::strerror(errno));
  return whole(in);
}

struct Drawn {
  int64_t bytes = 0;
  int64_t ended = 0;  // samples that ended themselves
};

// Draws until every one of the first `count` samples has `limit` bytes or ended itself; `put`
// receives them and says whether to go on.
Drawn draw(Generator& generator, int64_t count, int64_t limit,
           const std::function<bool(size_t sample, char byte)>& put) {
  std::vector<bool> ended(static_cast<size_t>(count));
  Drawn drawn;
  for (int64_t t = 0; t < limit && !interrupted; ++t) {
    const std::vector<uint16_t>& tokens = generator.next();
    for (size_t b = 0; b < ended.size(); ++b) {
      if (ended[b]) continue;
      if (tokens[b] >= kEndOfDocument) {
        ended[b] = true;
        ++drawn.ended;
        continue;
      }
      ++drawn.bytes;
      if (!put(b, static_cast<char>(tokens[b]))) return drawn;
    }
    if (std::find(ended.begin(), ended.end(), false) == ended.end()) break;
  }
  return drawn;
}

// Bytes to stdout: one by one for a person, in small groups for a program. A reader that has gone
// ends the stream quietly.
class ByteStream {
 public:
  bool put(char byte) {
    pending_.push_back(byte);
    return pending_.size() < group_ || flush();
  }
  bool flush() {
    size_t done = 0;
    while (done < pending_.size()) {
      const ssize_t n = write(STDOUT_FILENO, pending_.data() + done, pending_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EPIPE) return false;
      if (n < 0) fail("cannot write to stdout: {}", std::strerror(errno));
      done += static_cast<size_t>(n);
    }
    pending_.clear();
    return true;
  }

 private:
  const size_t group_ = isatty(STDOUT_FILENO) ? 1 : 32;
  std::string pending_;
};

// The files of --out. Nothing is written over unless asked for.
std::vector<fs::path> sample_files(const GenerateOptions& options) {
  const size_t digits = std::max<size_t>(3, std::to_string(options.samples - 1).size());
  if (fs::exists(options.out) && !fs::is_directory(options.out))
    fail("{} is a file: --out takes a folder for the samples", options.out);
  std::vector<fs::path> files;
  for (int64_t i = 0; i < options.samples; ++i) {
    files.push_back(fs::path(options.out) / fmt::format("sample-{:0{}}.bin", i, digits));
    if (!options.overwrite && fs::exists(files.back()))
      fail("{} exists already: choose another --out, or --overwrite", files.back().string());
  }
  return files;
}

void report(const GenerateOptions& options, const Drawn& drawn, double seconds) {
  const int64_t bytes = drawn.bytes;
  const double rate = seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  if (options.json)
    fmt::print(stderr, "{}\n",
               nlohmann::json{{"bytes", bytes},
                              {"seconds", seconds},
                              {"bytes_per_s", rate},
                              {"samples", options.samples},
                              {"ended", drawn.ended}}
                   .dump());
  else if (!options.out.empty())
    fmt::print(stderr, "{} sample{}, {} bytes in {:.2f} s ({:.0f} bytes/s), in {}\n",
               options.samples, options.samples == 1 ? "" : "s", bytes, seconds, rate, options.out);
}

void generate(const GenerateOptions& options) {
  if (options.samples > 1 && options.out.empty())
    throw UsageError("--samples above 1 needs --out DIR: several samples do not fit one stdout");
  std::vector<fs::path> files;
  if (!options.out.empty()) files = sample_files(options);
  const auto backend = options.device.backend();
  const auto model = load_model(model_folder(options.model, false), *backend,
                                options.device.compute(*backend, DType::f32), false);
  const std::string prompt = read_prompt(options);
  const std::vector<uint16_t> tokens = prompt_symbols(
      {reinterpret_cast<const uint8_t*>(prompt.data()), prompt.size()}, model->config());
  if (!options.out.empty()) fs::create_directories(options.out);

  end_on_interrupt();
  std::signal(SIGPIPE, SIG_IGN);
  const auto start = std::chrono::steady_clock::now();
  const int64_t batch = std::min(options.batch, options.samples);
  Generator generator(*model, batch, options.sampling);
  Drawn drawn;
  const auto add = [&](const Drawn& more) {
    drawn.bytes += more.bytes;
    drawn.ended += more.ended;
  };
  for (int64_t first = 0; first < options.samples && !interrupted; first += batch) {
    const int64_t count = std::min(batch, options.samples - first);
    generator.start(tokens, static_cast<uint64_t>(first));
    if (files.empty()) {
      ByteStream out;
      bool open = true;
      if (options.echo)
        for (const char byte : prompt) open = open && out.put(byte);
      if (open) open = out.flush();
      if (open)
        add(draw(generator, count, options.bytes,
                 [&](size_t, char byte) { return open = out.put(byte); }));
      if (open) out.flush();
    } else {
      std::vector<std::string> samples(static_cast<size_t>(count), options.echo ? prompt : "");
      add(draw(generator, count, options.bytes, [&](size_t sample, char byte) {
        samples[sample].push_back(byte);
        return true;
      }));
      for (size_t i = 0; i < samples.size(); ++i)
        write_file_atomically(files[static_cast<size_t>(first) + i], samples[i]);
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  report(options, drawn, seconds.count());
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "sample bytes from a model");
  command->footer(
      "Any bytes may come, 0x00 too. A row longer than the model's context slides: the last half "
      "of "
      "the context\n(in whole patches) is kept and goes in again as the prompt, and of a longer "
      "prompt the end counts.\nA model with an end-of-document symbol takes a prompt for the "
      "beginning "
      "of a document, and ends\na sample by drawing that symbol.");
  add_model_option(*command, options->model);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "text to continue");
  command
      ->add_option("--prompt-file", options->prompt_file, "file to continue, any bytes; - is stdin")
      ->excludes(prompt);
  command->add_flag("--echo", options->echo, "write the prompt before the sample");
  command->add_option("--bytes", options->bytes, "bytes to draw for each sample")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--temperature", options->sampling.temperature,
                   "divides the logits; 0 takes the likeliest byte")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "draw from the k likeliest bytes; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "draw from the likeliest bytes that together have this probability")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command
      ->add_option("--seed", options->sampling.seed, "of the draws; the same seed, the same bytes")
      ->capture_default_str();
  command->add_option("--samples", options->samples, "independent samples; above 1 needs --out")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--out", options->out,
                      "folder for sample-000.bin and so on, in place of stdout");
  command->add_flag("--overwrite", options->overwrite, "write over samples in --out");
  command->add_option("--batch", options->batch, "samples drawn side by side")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--json", options->json,
                    "bytes, seconds, bytes/s and ended samples as JSON on stderr at the end");
  options->device.add_to(*command, "default f32");
  command->callback([options] { generate(*options); });
}

}  // namespace megabyte::cli
