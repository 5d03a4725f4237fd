#include "codec/checksums.h"

#include <cryptopp/crc.h>
#include <cryptopp/sha.h>
#include <fmt/format.h>

namespace megabyte {

struct Sha256::State {
  CryptoPP::SHA256 hash;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::update(std::span<const uint8_t> bytes) {
  state_->hash.Update(bytes.data(), bytes.size());
}

Sha256Digest Sha256::finish() {
  Sha256Digest digest;
  state_->hash.Final(digest.data());
  return digest;
}

Sha256Digest sha256(std::span<const uint8_t> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

uint32_t crc32c(std::span<const uint8_t> bytes) {
  CryptoPP::CRC32C crc;
  crc.Update(bytes.data(), bytes.size());
  uint8_t digest[4];  // the least significant byte first
  crc.TruncatedFinal(digest, sizeof digest);
  return digest[0] | digest[1] << 8 | digest[2] << 16 | static_cast<uint32_t>(digest[3]) << 24;
}

std::string hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace megabyte
