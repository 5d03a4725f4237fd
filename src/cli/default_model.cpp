#include "cli/default_model.h"

#include <fmt/format.h>

#include <cstdio>
#include <system_error>

#include "base/error.h"
#include "model/files.h"

namespace megabyte::cli {

namespace fs = std::filesystem;

namespace {

// Where models in the box may lie: beside the program as it is built, and where it is installed,
// PREFIX/bin/megabyte with PREFIX/share.
std::vector<fs::path> boxes() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) fail("cannot tell where this program lies: name a model with --model");
  const fs::path share = fs::path("share") / "megabyte";
  return {program.parent_path() / share, program.parent_path().parent_path() / share};
}

// The folder of the model that is called `name`; empty if it is in none of them.
fs::path found(const std::vector<fs::path>& boxes, const char* name) {
  std::error_code error;
  for (const fs::path& box : boxes)
    if (fs::exists(box / name / kModelFile, error)) return box / name;
  return {};
}

}  // namespace

void add_model_option(CLI::App& command, std::string& model) {
  command.add_option("--model", model,
                     "folder of the model; without it the one that comes with the program");
}

void say_boxed(const fs::path& folder) {
  fmt::print(stderr, "The model in the box: {}\n", folder.string());
}

fs::path model_folder(const std::string& model, bool quiet, const char* boxed) {
  if (!model.empty()) return model;
  const std::vector<fs::path> places = boxes();
  const fs::path folder = found(places, boxed);
  if (folder.empty())
    fail("no such model came with this program ({} is not there): name one with --model",
         (places.back() / boxed).string());
  if (!quiet) say_boxed(folder);
  return folder;
}

std::vector<fs::path> boxed_models() {
  const std::vector<fs::path> places = boxes();
  std::vector<fs::path> folders;
  for (const char* name : {kDefaultModel, kFastModel})
    if (const fs::path folder = found(places, name); !folder.empty()) folders.push_back(folder);
  return folders;
}

}  // namespace megabyte::cli
