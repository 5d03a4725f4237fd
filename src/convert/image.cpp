#include "convert/image.h"

#include <fmt/format.h>
#include <jpeglib.h>
#include <png.h>
// jerror.h wants to come after jpeglib.h.
#include <jerror.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csetjmp>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "convert/orientation.h"
#include "io/atomic_file.h"

namespace megabyte {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 28;

Image empty_image(int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > kMostPixels / height)
    fail("it has {} x {} pixels, which is none or too many", width, height);
  return {width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
}

// libpng's memory for one picture.
struct Png : png_image {
  Png() : png_image{} { version = PNG_IMAGE_VERSION; }
  ~Png() { png_image_free(this); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
};

Image decode_png(std::span<const std::byte> file) {
  Png png;
  if (!png_image_begin_read_from_memory(&png, file.data(), file.size()))
    fail("it is a damaged PNG file: {}", png.message);
  Image image = empty_image(png.width, png.height);
  png.format = PNG_FORMAT_RGB;
  const png_color white{255, 255, 255};
  if (!png_image_finish_read(&png, &white, image.rgb.data(), 0, nullptr))
    fail("it is a damaged PNG file: {}", png.message);
  return image;
}

// libjpeg reports errors by a function that must not return.
struct Jpeg {
  jpeg_decompress_struct state{};
  jpeg_error_mgr errors{};
  std::jmp_buf failed;
  char message[JMSG_LENGTH_MAX] = "";

  Jpeg() {
    state.err = jpeg_std_error(&errors);
    state.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* self = static_cast<Jpeg*>(common->client_data);
      self->errors.format_message(common, self->message);
      std::longjmp(self->failed, 1);
    };
    // Level -1 is damage that libjpeg would paint over in grey: no picture for us. Bytes too many
    // between its parts are harmless.
    errors.emit_message = [](j_common_ptr common, int level) {
      if (level < 0 && common->err->msg_code != JWRN_EXTRANEOUS_DATA)
        common->err->error_exit(common);
    };
  }
  ~Jpeg() { jpeg_destroy_decompress(&state); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;

  // Each false when it failed: nothing with a destructor may live between setjmp and longjmp.
  bool start(std::span<const std::byte> file) {
    if (setjmp(failed)) return false;
    jpeg_create_decompress(&state);
    jpeg_mem_src(&state, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_save_markers(&state, JPEG_APP0 + 1, 0xFFFF);  // EXIF, and others
    jpeg_read_header(&state, TRUE);
    state.out_color_space = JCS_RGB;
    jpeg_start_decompress(&state);
    return true;
  }
  bool read(uint8_t* rgb) {
    if (setjmp(failed)) return false;
    while (state.output_scanline < state.output_height) {
      JSAMPROW row = rgb + size_t{3} * state.output_width * state.output_scanline;
      jpeg_read_scanlines(&state, &row, 1);
    }
    jpeg_finish_decompress(&state);
    return true;
  }
  // Between start() and read(), which gives its memory back.
  int orientation() const {
    constexpr std::string_view kExif("Exif\0\0", 6);
    for (auto* marker = state.marker_list; marker != nullptr; marker = marker->next) {
      const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      if (data.starts_with(kExif)) return exif_orientation({marker->data, marker->data_length});
    }
    return 1;
  }
};

Image decode_jpeg(std::span<const std::byte> file) {
  Jpeg jpeg;
  if (!jpeg.start(file)) fail("it is a JPEG file that cannot be read: {}", jpeg.message);
  Image image = empty_image(jpeg.state.output_width, jpeg.state.output_height);
  const int orientation = jpeg.orientation();
  if (!jpeg.read(image.rgb.data())) fail("it is a damaged JPEG file: {}", jpeg.message);
  return upright(std::move(image), orientation);
}

// Numbers of a Netpbm header, between white space and comments.
class PnmHeader {
 public:
  explicit PnmHeader(std::string_view file) : file_(file) {}

  int64_t number() {
    while (at_ < file_.size() && (std::isspace(byte()) || byte() == '#')) {
      if (byte() == '#') at_ = std::min(file_.find('\n', at_), file_.size());
      if (at_ < file_.size()) ++at_;
    }
    int64_t value = 0;
    const char* begin = file_.data() + at_;
    const auto [end, error] = std::from_chars(begin, file_.data() + file_.size(), value);
    if (error != std::errc() || value < 1) fail("it is a PPM file with a damaged header");
    at_ += static_cast<size_t>(end - begin);
    return value;
  }
  // After one byte of white space.
  std::string_view rest() const { return file_.substr(std::min(at_ + 1, file_.size())); }

 private:
  unsigned char byte() const { return static_cast<unsigned char>(file_[at_]); }

  std::string_view file_;
  size_t at_ = 2;
};

Image decode_pnm(std::string_view file) {
  const int64_t channels = file[1] == '6' ? 3 : 1;
  PnmHeader header(file);
  const int64_t width = header.number(), height = header.number(), most = header.number();
  if (most > 65535) fail("it is a PPM file with a damaged header");
  const int64_t wide = most > 255 ? 2 : 1;
  const std::string_view data = header.rest();
  const int64_t held = std::ssize(data) / (wide * channels);  // pixels
  if (width > held / height)
    fail("it is a PPM file that is cut short: {} of {} x {} pixels", held, width, height);
  Image image = empty_image(width, height);
  const auto value = [&](size_t i) {
    int64_t v = static_cast<unsigned char>(data[wide == 2 ? 2 * i : i]);
    if (wide == 2) v = v << 8 | static_cast<unsigned char>(data[2 * i + 1]);
    return static_cast<uint8_t>((std::min(v, most) * 255 + most / 2) / most);
  };
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = value(channels == 3 ? i : i / 3);
  return image;
}

}  // namespace

Image decode_image(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file);
  if (text.starts_with("\xff\xd8\xff")) return decode_jpeg(file);
  if (text.starts_with("P6") || text.starts_with("P5")) return decode_pnm(text);
  fail("it is no PNG, JPEG or PPM file");
}

void write_png(const std::filesystem::path& file, const Image& image) {
  Png png;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&png, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr))
    fail("cannot write {}: {}", file.string(), png.message);
  write_file_atomically(file, std::string_view(bytes).substr(0, size));
}

}  // namespace megabyte
