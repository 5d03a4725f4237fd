// Checksums of the archive, by Crypto++ (which uses the machine's own instructions where it can).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace megabyte {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(std::span<const uint8_t> bytes);
  Sha256Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Sha256Digest sha256(std::span<const uint8_t> bytes);
uint32_t crc32c(std::span<const uint8_t> bytes);  // Castagnoli, as RFC 3720 has it
std::string hex(std::span<const uint8_t> bytes);

}  // namespace megabyte
