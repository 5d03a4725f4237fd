// From what a user names to the files it means.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace megabyte {

// Which of the files in a folder count; one that is named itself, or by a pattern, always does.
// Patterns are the shell's, for names without folders, in letters of either case.
struct FileFilter {
  std::vector<std::string> include;  // of files; none: all
  std::vector<std::string> exclude;  // of files and folders
  bool hidden = true;                // names that begin with a dot
  // Told of what in a folder cannot be read, which is then left out; without it, an Error.
  std::function<void(const std::filesystem::path& path, const std::string& reason)> on_unreadable;
};

// Each path is a file, a folder (all files below it, hidden ones too, links followed; or those that
// the filter lets through) or a glob pattern. The files come back sorted by path, each once.
// Errors: a path or pattern that matches nothing, anything that is not a regular readable file,
// links in a circle.
std::vector<std::filesystem::path> find_files(const std::vector<std::string>& paths,
                                              const FileFilter& filter = {});

}  // namespace megabyte
