// megabyte compress: any file to an archive, coded by a model.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "cli/archive_common.h"
#include "cli/commands.h"
#include "cli/numbers.h"

namespace megabyte::cli {
namespace {

struct CompressCommand {
  std::string file, out;
  bool fast = false, embed = false, verify = false, force = false, quiet = false;
  ArchiveOptions archive;
};

void run(const CompressCommand& command) {
  const std::string to = !command.out.empty()  ? command.out
                         : command.file == "-" ? "-"
                                               : command.file + kArchiveSuffix;
  if (to == "-" && isatty(STDOUT_FILENO))
    throw UsageError("an archive is not for a terminal: name a file with -o, or redirect stdout");
  const InputBytes in(command.file);
  OutputBytes out(to, command.force);
  const ArchiveHeader shape{.stream_bits = stream_bits_for(in.bytes().size()),
                            .original_bytes = in.bytes().size()};
  const CodecModel model(shape.stream_count(), command.archive.threads,
                         command.archive.load(command.quiet, command.fast),
                         command.archive.backend(shape.stream_count()));
  ArchiveProgress progress(in.bytes().size());
  const CompressResult result = compress(
      model, in.bytes(), {.embed = command.embed, .verify = command.verify},
      [&](Bytes bytes) { out.write(bytes); }, [&](uint64_t done) { progress(done); });
  out.commit();
  const double seconds = progress.finish();
  if (command.quiet) return;
  const auto original = static_cast<double>(in.bytes().size());
  const auto bytes = static_cast<double>(result.archive_bytes);
  fmt::print(stderr, "{}: {} -> {} bytes{}, {:.1f} s{}\n", in.name(), in.bytes().size(),
             result.archive_bytes,
             original > 0 ? fmt::format(" ({:.3f} bits per byte)", 8 * bytes / original) : "",
             seconds, result.coded ? "" : "; stored as it is, the model would not make it shorter");
}

}  // namespace

void add_compress(CLI::App& app) {
  auto options = std::make_shared<CompressCommand>();
  CLI::App* command = app.add_subcommand("compress", "compress a file with a model");
  command->footer(
      "The archive decodes to the same bytes on every machine, with the same model: its matrices "
      "are "
      "taken in\n8 bits ('megabyte quantize' writes such a model, a quarter of the size). What the "
      "model would make larger is\nstored as it is. docs/compression.md says when not to use "
      "this.");
  command->add_option("file", options->file, "what to compress; - is stdin")->required();
  command->add_option("-o,--out", options->out,
                      "the archive; - is stdout; by default FILE.mbz, of stdin stdout");
  command->add_flag("--fast", options->fast,
                    "the smaller model in the box: about twice as fast; for books, 4% larger");
  command->add_flag("--embed-model", options->embed,
                    "the model travels inside: the archive decodes without --model");
  command->add_flag("--verify", options->verify,
                    "decode everything again before it is written; twice the time");
  command->add_flag("--force", options->force, "write over an older archive");
  command->add_flag("--quiet", options->quiet, "no line about the result");
  options->archive.add_to(*command);
  command->get_option("--fast")->excludes(command->get_option("--model"));
  command->callback([options] { run(*options); });
}

}  // namespace megabyte::cli
