// Any bytes are either refused with an Error or an archive whose parts lie inside it. Each input is
// tried as it is, and as an archive of less than 64 KiB with the beginning and the checksums that
// it needs.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "codec/archive.h"

namespace {

using megabyte::Bytes;

void read(Bytes file) {
  using namespace megabyte;
  try {
    const Archive archive(file, "fuzz");
    uint64_t original = 0, bytes = archive.model().size();
    for (size_t i = 0; i < archive.stream_count(); ++i) {
      const ArchiveStream stream = archive.stream(i);
      if (stream.first != original || stream.bytes.data() < file.data() ||
          stream.bytes.data() + stream.bytes.size() > file.data() + file.size())
        std::abort();
      original += stream.original_bytes;
      bytes += stream.bytes.size();
    }
    if (original != archive.header().original_bytes || bytes >= file.size()) std::abort();
  } catch (const Error&) {
  }
}

void set_crc(std::vector<uint8_t>& file, size_t from, size_t to) {
  const uint32_t crc = megabyte::crc32c(Bytes(file).subspan(from, to - from));
  for (size_t i = 0; i < 4; ++i) file[to + i] = static_cast<uint8_t>(crc >> 8 * i);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read({data, size});
  if (size < 55) return 0;
  std::vector<uint8_t> file(data, data + size);
  const uint8_t begin[5]{0x89, 'M', 'B', 'Z', 1};
  std::copy(begin, begin + 5, file.begin());
  file[5] &= 3;
  file[6] = static_cast<uint8_t>(8 + file[6] % 13);
  std::fill(file.begin() + 9, file.begin() + 15, 0);
  const bool coded = file[5] & 1, embedded = file[5] == 3;
  const size_t header = 47 + (coded ? 42 : 0) + (embedded ? 8 : 0);
  if (header + 8 > size) return 0;
  if (embedded) std::fill(file.begin() + 90, file.begin() + 97, 0);
  const size_t original = file[7] | file[8] << 8, stream = size_t{1} << file[6];
  const size_t count = (original + stream - 1) / stream;
  set_crc(file, 0, header);
  if (count <= (size - header - 8) / 8) set_crc(file, size - 4 - 8 * count, size - 4);
  read(file);
  return 0;
}
