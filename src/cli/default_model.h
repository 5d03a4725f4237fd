// The models in the box: commands that are not told of another take one that comes with the
// program, share/megabyte/model, or the fast one beside it, where it is built as where it is
// installed.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

namespace megabyte::cli {

inline constexpr const char* kDefaultModel = "model";
inline constexpr const char* kFastModel = "model-fast";

// --model, which may be left out.
void add_model_option(CLI::App& command, std::string& model);

// `model`; where that is empty the folder of the model in the box that is called `boxed`, which is
// named in a line on stderr unless `quiet`. Error if none is there.
std::filesystem::path model_folder(const std::string& model, bool quiet,
                                   const char* boxed = kDefaultModel);

// The folders of those in the box that are there, the default one first.
std::vector<std::filesystem::path> boxed_models();

// The line on stderr.
void say_boxed(const std::filesystem::path& folder);

}  // namespace megabyte::cli
