#include "io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace megabyte {

namespace fs = std::filesystem;

AtomicFile::AtomicFile(const fs::path& file) : file_(file), temporary_(file.string() + ".tmp") {
  std::error_code ignored;
  const fs::file_status status = fs::status(file, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status))  // renaming would replace a device
    fail("cannot write {}: it exists and is not a regular file; choose another name",
         file.string());
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_with_reason();
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, from, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_with_reason();
    }
    from += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0 || ::rename(temporary_.c_str(), file_.c_str()) != 0)
    fail_with_reason();
  ::close(descriptor_);
  descriptor_ = -1;
  const fs::path folder = file_.has_parent_path() ? file_.parent_path() : ".";
  const int folder_descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  // Some file systems refuse to sync a folder (EINVAL); there the rename is as durable as it gets.
  const bool synced =
      folder_descriptor >= 0 && (::fsync(folder_descriptor) == 0 || errno == EINVAL);
  const int reason = errno;
  if (folder_descriptor >= 0) ::close(folder_descriptor);
  if (!synced)
    fail("{} is written, but its folder cannot be synced: {}", file_.string(),
         std::strerror(reason));
}

void AtomicFile::fail_with_reason() const {
  const int reason = errno;
  fail("cannot write {}: {}{}", file_.string(), std::strerror(reason),
       fs::exists(file_) ? "; the file that was there is unchanged" : "");
}

void write_file_atomically(const fs::path& file, std::string_view content) {
  AtomicFile out(file);
  out.write(content);
  out.commit();
}

}  // namespace megabyte
