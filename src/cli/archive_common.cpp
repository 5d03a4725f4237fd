#include "cli/archive_common.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "backends/factories.h"
#include "base/error.h"
#include "cli/default_model.h"
#include "cli/numbers.h"
#include "cli/stop_signals.h"
#include "model/files.h"

namespace megabyte::cli {

namespace fs = std::filesystem;

namespace {

std::vector<uint8_t> read_stdin() {
  std::vector<uint8_t> bytes;
  size_t size = 0;
  while (true) {
    if (size == bytes.size()) bytes.resize(std::max<size_t>(1 << 16, 2 * size));
    const ssize_t n = ::read(STDIN_FILENO, bytes.data() + size, bytes.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read stdin: {}", std::strerror(errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  bytes.resize(size);
  return bytes;
}

bool has_gpu() {
#ifdef MEGABYTE_WITH_CUDA
  return why_no_cuda_device().empty();
#else
  return false;
#endif
}

}  // namespace

InputBytes::InputBytes(const std::string& file) : name_(file == "-" ? "stdin" : file) {
  if (file == "-") {
    read_ = read_stdin();
    bytes_ = read_;
  } else {
    mapped_.emplace(file);
    const auto bytes = mapped_->bytes();
    bytes_ = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  }
}

OutputBytes::OutputBytes(const std::string& file, bool force) {
  ignore_file_limit_signal();
  if (file == "-") return;
  if (!force && fs::exists(file))
    fail("{} exists already: choose another name with -o, or --force", file);
  catch_stop_signals();
  file_.emplace(file);
}

void OutputBytes::write(Bytes bytes) {
  if (file_) return file_->write(bytes.data(), bytes.size());
  while (!bytes.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot write to stdout: {}", std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void OutputBytes::commit() {
  if (file_) file_->commit();
}

void add_archive_file(CLI::App& command, std::string& file) {
  command.add_option("file", file, "an archive of 'megabyte compress'; - is stdin")->required();
}

void ArchiveOptions::add_to(CLI::App& command) {
  add_model_option(command, model);
  command
      .add_option(
          "--device", device,
          "where to compute: cpu or cuda, the bytes are the same; auto takes a GPU for files "
          "above 4 MiB")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; 0 takes all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

std::string ArchiveOptions::backend(uint64_t streams) const {
  constexpr uint64_t kManyStreams = 64;
  const bool on_gpu =
      device == "cuda" || (device == "auto" && streams >= kManyStreams && has_gpu());
  return on_gpu ? "exact-cuda" : "exact";
}

CodecModel::Load ArchiveOptions::load(bool quiet, bool fast) const {
  return [folder = model, quiet, fast](Backend& backend) {
    return load_model(model_folder(folder, quiet, fast ? kFastModel : kDefaultModel), backend,
                      DType::f32, false);
  };
}

std::unique_ptr<CodecModel> ArchiveOptions::model_of(const Archive& archive, uint64_t streams,
                                                     const std::string& where, bool quiet) const {
  std::vector<fs::path> folders;
  if (!model.empty()) {
    folders = {model};
  } else if (archive.header().coded && archive.model().empty()) {
    folders = boxed_models();
    if (folders.empty()) model_folder(model, quiet);  // says that none is there
  }
  fs::path last;
  std::vector<ModelSource> sources;
  for (const fs::path& folder : folders)
    sources.push_back({folder.string(), [&last, folder](Backend& backend) {
                         last = folder;
                         return load_model(folder, backend, DType::f32, false);
                       }});
  auto found = megabyte::model_of(archive, streams, threads, sources, where, backend(streams));
  if (model.empty() && !last.empty() && !quiet) say_boxed(last);
  return found;
}

ArchiveProgress::ArchiveProgress(uint64_t bytes)
    : bytes_(bytes), start_(std::chrono::steady_clock::now()) {}

double ArchiveProgress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

double ArchiveProgress::finish() {
  line_.clear();
  return seconds();
}

void ArchiveProgress::operator()(uint64_t done) {
  if (stop_requested()) fail("interrupted: no file was written");
  if (!line_.due() || done == 0) return;
  const double rate = static_cast<double>(done) / seconds();
  const auto all = static_cast<double>(std::max(bytes_, done));
  line_.show(fmt::format("{:5.1f}%  {}  {} left", 100 * static_cast<double>(done) / all,
                         scaled(rate, "B/s"),
                         human_duration((all - static_cast<double>(done)) / rate)));
}

}  // namespace megabyte::cli
