// From what a user names to the files it means.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace megabyte {

// Each path is a file, a folder (all files below it, hidden ones too, links followed) or a glob
// pattern. The files come back sorted by path, each once. Errors: a path or pattern that matches
// nothing, anything that is not a regular readable file, links in a circle.
std::vector<std::filesystem::path> find_files(const std::vector<std::string>& paths);

}  // namespace megabyte
