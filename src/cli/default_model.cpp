#include "cli/default_model.h"

#include <fmt/format.h>

#include <cstdio>
#include <system_error>

#include "base/error.h"
#include "model/files.h"

namespace megabyte::cli {

namespace fs = std::filesystem;

void add_model_option(CLI::App& command, std::string& model) {
  command.add_option("--model", model,
                     "folder of the model; without it the one that comes with the program");
}

fs::path model_folder(const std::string& model, bool quiet) {
  if (!model.empty()) return model;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) fail("cannot tell where this program lies: name a model with --model");
  // PREFIX/bin/megabyte is installed with PREFIX/share; a build has its own.
  const fs::path beside = fs::path("share") / "megabyte" / "model";
  const fs::path installed = program.parent_path().parent_path() / beside;
  for (const fs::path& folder : {program.parent_path() / beside, installed})
    if (fs::exists(folder / kModelFile, error)) {
      if (!quiet) fmt::print(stderr, "The model in the box: {}\n", folder.string());
      return folder;
    }
  fail("no model came with this program ({} is not there): name one with --model",
       installed.string());
}

}  // namespace megabyte::cli
