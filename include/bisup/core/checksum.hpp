// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Did these bytes arrive as they were sent? CRC-32C (Castagnoli), the checksum of iSCSI and ext4
// (RFC 3720, appendix B.4), eight bytes a step with tables made at compile time.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace bisup {

namespace detail {

// tables[k][b]: the register after byte b and k further zero bytes.
inline constexpr auto crc32c_tables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables = {};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t r = b;
    for (int bit = 0; bit < 8; ++bit)
      r = (r >> 1) ^ (r & 1 ? 0x82f63b78u : 0);  // reflected 0x1edc6f41
    tables[0][b] = r;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      const std::uint32_t r = tables[k - 1][b];
      tables[k][b] = (r >> 8) ^ tables[0][r & 255];
    }
  }
  return tables;
}();

}  // namespace detail

// `before`: the checksum of what comes before, so that long data can come in pieces.
[[nodiscard]] inline std::uint32_t crc32c(std::span<const std::byte> bytes,
                                          std::uint32_t before = 0) noexcept {
  const auto& t = detail::crc32c_tables;
  std::uint32_t r = ~before;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint32_t low, high;
    std::memcpy(&low, bytes.data() + i, 4);
    std::memcpy(&high, bytes.data() + i + 4, 4);
    low ^= r;
    r = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^
        t[3][high & 255] ^ t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
  }
  for (; i < bytes.size(); ++i)
    r = (r >> 8) ^ t[0][(r ^ static_cast<std::uint32_t>(bytes[i])) & 255];
  return ~r;
}

}  // namespace bisup
