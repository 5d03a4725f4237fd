// megabyte decompress and verify: an archive back to what it was, whole or a part; or only whether
// it can be.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "cli/archive_common.h"
#include "cli/commands.h"

namespace megabyte::cli {
namespace {

struct DecompressCommand {
  std::string file, out, range;
  bool force = false, quiet = false;
  ArchiveOptions archive;
};

uint64_t place(std::string_view text, uint64_t otherwise, const std::string& range) {
  if (text.empty()) return otherwise;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    throw UsageError(fmt::format("--range {}: use FROM:TO, two places in bytes", range));
  return value;
}

// "A:B", "A:", ":B": bytes A to B - 1 of `size`.
std::pair<uint64_t, uint64_t> parse_range(const std::string& range, uint64_t size) {
  const size_t colon = range.find(':');
  if (colon == std::string::npos)
    throw UsageError(fmt::format("--range {}: use FROM:TO, two places in bytes", range));
  const std::string_view text = range;
  const uint64_t from = place(text.substr(0, colon), 0, range);
  const uint64_t to = place(text.substr(colon + 1), size, range);
  if (from > to || to > size)
    fail("--range {}: the original has bytes 0 to {}, and FROM is not above TO", range, size);
  return {from, to};
}

std::string default_output(const DecompressCommand& command) {
  if (command.file == "-") return "-";
  const std::string_view suffix = kArchiveSuffix, file = command.file;
  if (file.size() <= suffix.size() || !file.ends_with(suffix))
    throw UsageError(fmt::format("{} does not end in {}: name the output with -o", file, suffix));
  if (!command.range.empty())
    throw UsageError(
        "--range gives a part of the original: name a file for it with -o, or - for stdout");
  return command.file.substr(0, file.size() - suffix.size());
}

// Decodes [from, to) into `sink`; gives the seconds that it took.
double decode(const Archive& archive, const std::string& name, uint64_t from, uint64_t to,
              const DecompressCommand& command, const ArchiveWriter::Sink& sink) {
  const uint64_t streams = archive.header().streams_of(from, to).size();
  const auto model = command.archive.model_of(archive, streams, name, command.quiet);
  ArchiveProgress progress(to - from);
  decompress(model.get(), archive, from, to, name, sink, [&](uint64_t done) { progress(done); });
  return progress.finish();
}

void run(const DecompressCommand& command) {
  const std::string out_name = command.out.empty() ? default_output(command) : command.out;
  const InputBytes in(command.file);
  const Archive archive(in.bytes(), in.name());
  const uint64_t size = archive.header().original_bytes;
  const auto [from, to] = command.range.empty() ? std::pair<uint64_t, uint64_t>(0, size)
                                                : parse_range(command.range, size);
  OutputBytes out(out_name, command.force);
  const double seconds =
      decode(archive, in.name(), from, to, command, [&](Bytes bytes) { out.write(bytes); });
  out.commit();
  if (!command.quiet) fmt::print(stderr, "{}: {} bytes, {:.1f} s\n", in.name(), to - from, seconds);
}

void verify(const DecompressCommand& command) {
  const InputBytes in(command.file);
  const Archive archive(in.bytes(), in.name());
  const uint64_t size = archive.header().original_bytes;
  const double seconds = decode(archive, in.name(), 0, size, command, [](Bytes) {});
  if (!command.quiet)
    fmt::print("{}: whole, {} bytes of the original, {:.1f} s\n", in.name(), size, seconds);
}

}  // namespace

void add_decompress(CLI::App& app) {
  auto options = std::make_shared<DecompressCommand>();
  CLI::App* command = app.add_subcommand("decompress", "give back what was compressed");
  add_archive_file(*command, options->file);
  command->add_option("-o,--out", options->out,
                      "where to; - is stdout; by default FILE without .mbz, of stdin stdout");
  command->add_option("--range", options->range,
                      "only bytes FROM to TO - 1 of the original, as FROM:TO");
  command->add_flag("--force", options->force, "write over an older file");
  command->add_flag("--quiet", options->quiet, "no line about the result");
  options->archive.add_to(*command);
  command->callback([options] { run(*options); });
}

void add_verify(CLI::App& app) {
  auto options = std::make_shared<DecompressCommand>();
  CLI::App* command =
      app.add_subcommand("verify", "decode an archive and check it, without writing");
  add_archive_file(*command, options->file);
  command->add_flag("--quiet", options->quiet, "only the exit code");
  options->archive.add_to(*command);
  command->callback([options] { verify(*options); });
}

}  // namespace megabyte::cli
