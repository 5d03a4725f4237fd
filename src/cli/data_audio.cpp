// megabyte data audio and to-wav: sound into raw bytes, and back.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/data.h"
#include "cli/data_common.h"
#include "convert/audio.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kAudio = "audio";

struct SampleOptions {
  int64_t rate = 16000;
  std::string format = "s16le";

  void add_to(CLI::App& command) {
    command.add_option("--rate", rate, "samples per second (Hz)")
        ->check(CLI::Range(1, 1'000'000))
        ->capture_default_str();
    command
        .add_option("--format", format,
                    "bytes of a sample: s16le (two), u8 or mulaw (one), as ffmpeg names them")
        ->check(CLI::IsMember({"s16le", "u8", "mulaw"}))
        ->capture_default_str();
  }
  std::string duration(size_t bytes) const {
    const auto size = static_cast<size_t>(bytes_per_sample(sample_format(format)) * rate);
    const double seconds = static_cast<double>(bytes) / static_cast<double>(size);
    return seconds < 120 ? fmt::format("{:.1f} s", seconds)
                         : fmt::format("{:.1f} min", seconds / 60);
  }
};

struct AudioOptions {
  GatherOptions files;
  SampleOptions samples;
};

void audio(const AudioOptions& options) {
  const SampleOptions& s = options.samples;
  const SampleFormat format = sample_format(s.format);
  const Manifest manifest = gather(options.files, kAudio, {{"rate", s.rate}, {"format", s.format}},
                                   [&](std::span<const std::byte> file) {
                                     return to_bytes(decode_audio(file, s.rate), format);
                                   });
  print_summary(options.files, manifest,
                fmt::format("{} of {} at {} Hz", s.duration(manifest.bytes), s.format, s.rate),
                bytes_per_sample(format) == 1
                    ? ""
                    : "A sample is 2 bytes: train with --align 2, so that windows begin where "
                      "samples do");
}

struct WavOptions {
  RestoreOptions files;
  SampleOptions samples;
};

void to_wav(WavOptions options, const CLI::App& command) {
  SampleOptions& s = options.samples;
  if (const ordered_json like = settings_like(options.files, kAudio); !like.is_null()) {
    if (command.count("--rate") == 0) s.rate = like.value("rate", int64_t{0});
    if (command.count("--format") == 0) s.format = like.value("format", "");
    if (s.rate < 1) fail("the manifest names no rate");
  }
  const SampleFormat format = sample_format(s.format);
  const fs::path out = options.files.out;
  const bool one_file = out.extension() == ".wav";

  const std::vector<RawFile> files = read_raw(options.files);
  if (files.empty()) fail("there are no bytes to hear: the folders hold no *.bin file");
  if (one_file && files.size() > 1)
    fail("{} is one file for {} inputs: name a folder with --out", out.string(), files.size());
  std::vector<fs::path> names;
  std::set<std::string> once;
  for (const RawFile& file : files) {
    names.push_back(one_file ? out : out / (file.stem + ".wav"));
    if (!once.insert(names.back().string()).second)
      fail("two inputs would become {}: convert them into folders of their own",
           names.back().string());
    check_free(names.back(), options.files.overwrite);
  }
  if (!one_file) make_folder(out, "FILE.wav");
  size_t bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    write_wav(names[i], from_bytes(files[i].bytes, format), s.rate);
    bytes += files[i].bytes.size();
  }
  fmt::print("{}: {}, {} at {} Hz\n", out.string(), counted(files.size(), "WAV file"),
             s.duration(bytes), s.rate);
}

}  // namespace

void add_data_audio(CLI::App& app) {
  auto options = std::make_shared<AudioOptions>();
  CLI::App* command = app.add_subcommand("audio", "WAV and FLAC files to bytes of samples");
  command->footer(
      "The recordings follow one another, as one channel (the mean of all) at one rate; other\n"
      "rates are resampled. s16le is what the paper models: the two bytes of 16-bit samples. u8\n"
      "and mulaw halve the bytes of a second; mulaw spends its steps where the ear hears them.\n"
      "A file that is damaged or cut short is named and skipped.");
  options->files.add_to(*command, "recordings", {"*.wav", "*.flac"});
  options->samples.add_to(*command);
  command->callback([options] { audio(*options); });
}

void add_data_to_wav(CLI::App& app) {
  auto options = std::make_shared<WavOptions>();
  CLI::App* command =
      app.add_subcommand("to-wav", "bytes of samples, encoded or generated, to WAV files");
  options->files.add_to(*command);
  command
      ->add_option("--out", options->files.out,
                   "FILE.wav for one input; any other name: a folder, one WAV each")
      ->required();
  options->samples.add_to(*command);
  command->callback([options, command] { to_wav(*options, *command); });
}

}  // namespace megabyte::cli
