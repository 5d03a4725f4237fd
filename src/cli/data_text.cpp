// megabyte data text: text and code into one file of raw bytes that knows its documents.
#include <memory>
#include <vector>

#include "cli/data.h"
#include "cli/data_common.h"
#include "convert/text.h"

namespace megabyte::cli {

void add_data_text(CLI::App& app) {
  auto options = std::make_shared<GatherOptions>();
  CLI::App* command = app.add_subcommand("text", "text and code to one file of documents");
  command->footer(
      "Every file is a document, and its bytes stay as they are; the manifest says where each\n"
      "begins. Files that are no UTF-8, or hold the byte 0x00, are named and skipped. With\n"
      "'megabyte train --end-of-document' the end of each document is a symbol of its own, so\n"
      "that generation stops by itself.");
  options->add_to(*command, "text and code", {"*"});
  command->callback([options] {
    const Manifest manifest = gather(
        *options, "text", nlohmann::ordered_json::object(), [](std::span<const std::byte> file) {
          check_text(file);
          const auto* begin = reinterpret_cast<const uint8_t*>(file.data());
          return std::vector<uint8_t>(begin, begin + file.size());
        });
    print_summary(*options, manifest, counted(manifest.items.size(), "document"),
                  "To learn where documents end: train with --end-of-document");
  });
}

}  // namespace megabyte::cli
