// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/checksum.hpp>
#include <string_view>
#include <vector>

#include <bisup_test.hpp>

namespace {

using bisup::crc32c;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST_CASE("the check value of the catalogue of CRCs, and RFC 3720's vectors") {
  CHECK(crc32c(bytes_of("123456789")) == 0xe3069283u);
  CHECK(crc32c({}) == 0);
  std::vector<std::byte> block(32);
  CHECK(crc32c(block) == 0x8a9136aau);  // B.4: 32 bytes of zeros
  for (auto& b : block) b = std::byte{0xff};
  CHECK(crc32c(block) == 0x62a8ab43u);  // 32 bytes of ones
  for (std::size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(i);
  CHECK(crc32c(block) == 0x46dd794eu);  // 0 ... 31
}

TEST_CASE("in pieces it is the same, and one changed bit changes it") {
  std::vector<std::byte> data(1000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 37);
  const std::uint32_t whole = crc32c(data);
  for (const std::size_t cut : {1u, 7u, 8u, 500u, 999u}) {
    CHECK(crc32c(std::span(data).subspan(cut), crc32c(std::span(data).first(cut))) == whole);
  }
  data[617] ^= std::byte{4};
  CHECK(crc32c(data) != whole);
}

}  // namespace
