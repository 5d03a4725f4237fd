#include "data/paths.h"

#include <fnmatch.h>
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/error.h"

namespace megabyte {

namespace fs = std::filesystem;

namespace {

bool matches(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), name.c_str(), FNM_CASEFOLD) == 0;
  });
}

class Finder {
 public:
  explicit Finder(const FileFilter& filter) : filter_(filter) {}

  void add(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status))
      add_folder(path);
    else if (fs::is_regular_file(status))
      add_file(path);
    else if (fs::exists(status))
      fail("cannot read {}: it is neither a regular file nor a folder", path.string());
    else
      fail("cannot read {}: {}", path.string(), error.message());
  }

  std::vector<fs::path> files() const { return {files_.begin(), files_.end()}; }

 private:
  void add_file(const fs::path& file) {
    if (::access(file.c_str(), R_OK) != 0)
      fail("cannot read {}: {}", file.string(), std::strerror(errno));
    files_.insert(file.lexically_normal().string());
  }

  void add_folder(const fs::path& folder) {
    const fs::path real = fs::canonical(folder);
    if (std::find(open_.begin(), open_.end(), real) != open_.end())
      fail("cannot read {}: the link leads back to a folder that it is in", folder.string());
    open_.push_back(real);
    std::error_code error;
    const fs::directory_iterator entries(folder, error);
    if (error) fail("cannot read folder {}: {}", folder.string(), error.message());
    for (const auto& entry : entries) add_entry(entry.path());
    open_.pop_back();
  }

  void add_entry(const fs::path& entry) {
    const std::string name = entry.filename().string();
    if ((!filter_.hidden && name.starts_with('.')) || matches(name, filter_.exclude)) return;
    std::error_code ignored;
    if (!filter_.include.empty() && !matches(name, filter_.include) &&
        !fs::is_directory(entry, ignored))
      return;
    if (!filter_.on_unreadable) return add(entry);
    const size_t depth = open_.size();
    try {
      add(entry);
    } catch (const Error& error) {
      open_.resize(depth);
      filter_.on_unreadable(entry, error.what());
    }
  }

  const FileFilter& filter_;
  std::set<std::string> files_;  // sorted by bytes, whatever the locale
  std::vector<fs::path> open_;   // folders that the current one is in
};

std::vector<std::string> expand_glob(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (result == GLOB_NOMATCH) fail("no file matches the pattern {}", pattern);
  if (result != 0) fail("cannot read the folders of the pattern {}", pattern);
  return paths;
}

}  // namespace

std::vector<fs::path> find_files(const std::vector<std::string>& paths, const FileFilter& filter) {
  Finder finder(filter);
  for (const std::string& path : paths) {
    std::error_code ignored;
    const bool pattern =
        path.find_first_of("*?[") != std::string::npos && !fs::exists(path, ignored);
    for (const std::string& each : pattern ? expand_glob(path) : std::vector{path})
      finder.add(each);
  }
  return finder.files();
}

}  // namespace megabyte
