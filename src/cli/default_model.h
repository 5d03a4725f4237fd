// The model in the box: commands that are not told of another take the one that comes with the
// program, share/megabyte/model, where it is built as where it is installed.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

namespace megabyte::cli {

// --model, which may be left out.
void add_model_option(CLI::App& command, std::string& model);

// `model`; where that is empty the folder of the model in the box, which is named in a line on
// stderr unless `quiet`. Error if none is there.
std::filesystem::path model_folder(const std::string& model, bool quiet);

}  // namespace megabyte::cli
