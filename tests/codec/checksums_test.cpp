#include "codec/checksums.h"

#include <gtest/gtest.h>

#include <string>

namespace megabyte {
namespace {

std::span<const uint8_t> bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// FIPS 180-2's examples, and RFC 3720's.
TEST(Checksums, AreThoseOfTheStandards) {
  EXPECT_EQ(hex(sha256(bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 parts;
  parts.update(bytes("a"));
  parts.update({});
  parts.update(bytes("bc"));
  EXPECT_EQ(parts.finish(), sha256(bytes("abc")));
  EXPECT_EQ(crc32c(bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c(bytes(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(crc32c({}), 0u);
}

}  // namespace
}  // namespace megabyte
