// megabyte list: what an archive is, from its header and table, and whether its model is in the
// box.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cli/archive_common.h"
#include "cli/commands.h"
#include "cli/default_model.h"
#include "cli/numbers.h"
#include "codec/model_bytes.h"
#include "io/json.h"
#include "model/files.h"

namespace megabyte::cli {
namespace {

struct ListCommand {
  std::string file;
  bool json = false;
};

// The folder of the model in the box that has this SHA-256; empty if none does, or cannot be read.
std::string boxed_model(const Sha256Digest& sha) try {
  for (const std::filesystem::path& folder : boxed_models()) {
    const auto backend = make_backend("exact");
    const auto model = load_model(folder, *backend, DType::f32, false);
    if (sha256(pack_model(*model)) == sha) return folder.string();
  }
  return {};
} catch (const Error&) {
  return {};
}

void list(const ListCommand& command) {
  const InputBytes in(command.file);
  const Archive archive(in.bytes(), in.name());
  const ArchiveHeader& header = archive.header();
  size_t stored = 0;
  for (size_t i = 0; i < archive.stream_count(); ++i) stored += archive.stream(i).stored;
  const std::string boxed = header.coded ? boxed_model(header.coded->model) : "";
  const double bits_per_byte =
      header.original_bytes == 0
          ? 0
          : 8 * static_cast<double>(archive.bytes()) / static_cast<double>(header.original_bytes);
  if (command.json) {
    nlohmann::ordered_json out{{"file", in.name()},
                               {"format", kArchiveVersion},
                               {"archive_bytes", archive.bytes()},
                               {"original_bytes", header.original_bytes},
                               {"bits_per_byte", bits_per_byte},
                               {"sha256", hex(header.original)},
                               {"stream_bytes", header.stream_bytes()},
                               {"streams", archive.stream_count()},
                               {"stored_streams", stored}};
    if (header.coded) {
      out["numerics"] = header.coded->numerics;
      out["model_sha256"] = hex(header.coded->model);
      out["model_bytes_inside"] = archive.model().size();
      if (!boxed.empty()) out["model_in_the_box"] = boxed;
    }
    fmt::print("{}\n", to_text(out));
    return;
  }
  fmt::print("{}\n", in.name());
  fmt::print("  original   {} bytes, SHA-256 {}\n", header.original_bytes, hex(header.original));
  fmt::print("  archive    {} bytes ({:.3f} bits per byte)\n", archive.bytes(), bits_per_byte);
  fmt::print("  streams    {} of {}, {} of them stored\n", archive.stream_count(),
             memory_size(static_cast<double>(header.stream_bytes())), stored);
  if (header.coded)
    fmt::print("  model      SHA-256 {}, {}{}; numbers of version {}\n", hex(header.coded->model),
               archive.model().empty() ? "not inside"
                                       : fmt::format("inside, {} bytes", archive.model().size()),
               boxed.empty() ? "" : ", that of " + boxed, header.coded->numerics);
  else
    fmt::print("  model      none needed: everything is stored\n");
}

}  // namespace

void add_list(CLI::App& app) {
  auto options = std::make_shared<ListCommand>();
  CLI::App* command = app.add_subcommand("list", "say what an archive holds, without decoding it");
  add_archive_file(*command, options->file);
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([options] { list(*options); });
}

}  // namespace megabyte::cli
