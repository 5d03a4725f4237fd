// megabyte data images and to-png: pictures into raw bytes, and back.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/data.h"
#include "cli/data_common.h"
#include "convert/image_bytes.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kImages = "images";
const std::map<std::string, Scan> kScans{{"patch", Scan::patch}, {"raster", Scan::raster}};
const std::map<std::string, Fit> kFits{
    {"cover", Fit::cover}, {"stretch", Fit::stretch}, {"crop", Fit::crop}, {"tile", Fit::tile}};

struct LayoutOptions {
  std::string size = "64", scan = "patch";
  int64_t patch = 2;

  void add_to(CLI::App& command) {
    command.add_option("--size", size, "pixels of an image, WIDTHxHEIGHT or one number for both")
        ->capture_default_str();
    command
        .add_option("--scan", scan,
                    "order of the pixels: patch (squares, one after another) or raster (rows)")
        ->check(CLI::IsMember({"patch", "raster"}))
        ->capture_default_str();
    command.add_option("--patch", patch, "pixels of a square's side in patch scan")
        ->capture_default_str();
  }

  ImageLayout layout() const {
    ImageLayout layout{.scan = kScans.at(scan), .patch = patch};
    const char *at = size.data(), *end = at + size.size();
    const auto number = [&](int64_t& value) {
      const auto [next, error] = std::from_chars(at, end, value);
      at = next;
      return error == std::errc();
    };
    bool good = number(layout.width);
    layout.height = layout.width;
    if (good && at < end && (*at == 'x' || *at == 'X')) {
      ++at;
      good = number(layout.height);
    }
    if (!good || at != end)
      throw UsageError(fmt::format("--size is WIDTHxHEIGHT or one number, not '{}'", size));
    validate(layout);
    return layout;
  }
};

struct ImagesOptions {
  GatherOptions files;
  LayoutOptions layout;
  std::string fit = "cover";
};

void images(const ImagesOptions& options) {
  const ImageLayout layout = options.layout.layout();
  const Fit fit = kFits.at(options.fit);
  ordered_json settings{{"width", layout.width},
                        {"height", layout.height},
                        {"scan", options.layout.scan},
                        {"patch", layout.patch},
                        {"fit", options.fit}};
  if (layout.scan == Scan::raster) settings.erase("patch");
  const Manifest manifest =
      gather(options.files, kImages, settings, [&](std::span<const std::byte> file) {
        std::vector<uint8_t> bytes;
        for (const Image& image : fitted(decode_image(file), layout.width, layout.height, fit)) {
          const std::vector<uint8_t> one = to_bytes(image, layout);
          bytes.insert(bytes.end(), one.begin(), one.end());
        }
        return bytes;
      });
  const auto bytes = static_cast<uint64_t>(layout.bytes());
  print_summary(options.files, manifest,
                fmt::format("{} of {} x {} pixels", counted(manifest.bytes / bytes, "image"),
                            layout.width, layout.height),
                fmt::format("An image is {0} bytes: train with --align {0}, so that windows begin "
                            "where images do",
                            bytes));
}

struct PngOptions {
  RestoreOptions files;
  LayoutOptions layout;
};

void to_png(PngOptions options, const CLI::App& command) {
  if (const ordered_json like = settings_like(options.files, kImages); !like.is_null()) {
    const auto given = [&](const char* name) { return command.count(name) > 0; };
    if (!given("--size"))
      options.layout.size = fmt::format("{}x{}", like.value("width", 0), like.value("height", 0));
    if (!given("--scan")) options.layout.scan = like.value("scan", "");
    if (!given("--patch")) options.layout.patch = like.value("patch", int64_t{1});
    if (!kScans.contains(options.layout.scan))
      fail("the manifest names no scan, but '{}'", options.layout.scan);
  }
  const ImageLayout layout = options.layout.layout();
  const auto size = static_cast<size_t>(layout.bytes());
  const fs::path out = options.files.out;
  const bool one_file = out.extension() == ".png";

  std::vector<Image> images;
  std::vector<std::string> names;
  for (RawFile& file : read_raw(options.files)) {
    if (file.bytes.empty()) fail("{} has no bytes", file.stem);
    const size_t count = (file.bytes.size() + size - 1) / size, whole = count * size;
    if (whole != file.bytes.size())
      fmt::print(stderr, "megabyte: the last image of {} lacks {} of {} bytes, shown black\n",
                 file.stem, whole - file.bytes.size(), size);
    file.bytes.resize(whole);
    for (size_t i = 0; i < count; ++i) {
      images.push_back(from_bytes(std::span(file.bytes).subspan(i * size, size), layout));
      names.push_back(count == 1 ? file.stem + ".png" : fmt::format("{}-{:03}.png", file.stem, i));
    }
  }
  if (images.empty()) fail("there are no bytes to show: the folders hold no *.bin file");
  if (one_file) {
    check_free(out, options.files.overwrite);
    write_png(out, contact_sheet(images));
  } else {
    std::set<std::string> once;
    for (const std::string& name : names) {
      if (!once.insert(name).second)
        fail("two inputs would become {}: convert them into folders of their own", name);
      check_free(out / name, options.files.overwrite);
    }
    make_folder(out, "FILE.png");
    for (size_t i = 0; i < images.size(); ++i) write_png(out / names[i], images[i]);
  }
  fmt::print("{}: {} of {} x {} pixels\n", out.string(), counted(images.size(), "image"),
             layout.width, layout.height);
}

}  // namespace

void add_data_images(CLI::App& app) {
  auto options = std::make_shared<ImagesOptions>();
  CLI::App* command = app.add_subcommand("images", "PNG, JPEG and PPM files to RGB bytes");
  command->footer(
      "Each image becomes 3 x WIDTH x HEIGHT bytes, one image after another. In patch scan a\n"
      "square of N x N pixels is 3 N^2 bytes: make that the bytes of the model's patch.\n"
      "  cover    scale until the image covers the size, cut out the middle\n"
      "  stretch  scale to the size, whatever that does to the shape\n"
      "  crop     cut out the middle without scaling\n"
      "  tile     cut into as many images as fit, without scaling\n"
      "A file that is damaged, or too small to crop, is named and skipped. Transparency shows\n"
      "white; a JPEG is turned as its camera notes (EXIF).");
  options->files.add_to(*command, "images", {"*.png", "*.jpg", "*.jpeg", "*.ppm", "*.pgm"});
  options->layout.add_to(*command);
  command->add_option("--fit", options->fit, "how an image comes to the size")
      ->check(CLI::IsMember({"cover", "stretch", "crop", "tile"}))
      ->capture_default_str();
  command->callback([options] { images(*options); });
}

void add_data_to_png(CLI::App& app) {
  auto options = std::make_shared<PngOptions>();
  CLI::App* command =
      app.add_subcommand("to-png", "RGB bytes, encoded or generated, back to PNG files");
  options->files.add_to(*command);
  command
      ->add_option("--out", options->files.out,
                   "FILE.png: all images side by side; any other name: a folder, one PNG each")
      ->required();
  options->layout.add_to(*command);
  command->callback([options, command] { to_png(*options, *command); });
}

}  // namespace megabyte::cli
