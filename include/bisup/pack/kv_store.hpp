// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does one token's codes enter a packed panel? Keys become a lane of a panel16 tile, values a
// sequential row; no other token's bits change. A code a byte goes in.

#include <cstdint>
#include <cstring>

#include <bisup/core/contract.hpp>
#include <bisup/pack/layout.hpp>

namespace bisup {

// `codes` holds dim codes (a multiple of 32) of the token in lane `token` of the panel.
template <int Bits>
void store_key_codes(const std::uint8_t* codes, int dim, int token, std::uint8_t* panel) {
  for (int d = 0; d < dim; d += panel16::tile_codes, panel += tile_bytes<panel16, Bits>) {
    std::uint32_t lane[Bits] = {};
    for (int step = 0; step < panel16::steps; ++step) {
      std::uint32_t four;
      std::memcpy(&four, codes + d + 4 * step, 4);
      const BitAddress start = panel16::in_step<Bits>(step, 0);
      if (step < panel16::whole_steps<Bits>) {
        lane[start.byte] |= four << start.bit;
      } else {
        for (int bit = 0; bit < Bits; ++bit) {
          const BitAddress piece = panel16::in_step<Bits>(step, bit);
          lane[piece.byte] |= (four >> bit & 0x01010101u) << piece.bit;
        }
      }
    }
    for (int v = 0; v < Bits; ++v)
      std::memcpy(panel + v * panel16::vector_bytes + token * 4, lane + v, 4);
  }
}

template <int Bits>
void store_value_codes(const std::uint8_t* codes, int dim, std::uint8_t* row) {
  for (int d = 0; d < dim; d += 8, row += Bits) {
    std::uint64_t eight = 0;
    for (int i = 0; i < 8; ++i) eight |= static_cast<std::uint64_t>(codes[d + i]) << (i * Bits);
    for (int b = 0; b < Bits; ++b) row[b] = static_cast<std::uint8_t>(eight >> (8 * b));
  }
}

// Calls visit.template operator()<Bits>() for the widths a cache has.
template <class Visit>
decltype(auto) with_kv_bits(int bits, Visit&& visit) {
  switch (bits) {
    case 2: return visit.template operator()<2>();
    case 3: return visit.template operator()<3>();
    case 4: return visit.template operator()<4>();
    default: BISUP_EXPECTS(bits == 8); return visit.template operator()<8>();
  }
}

}  // namespace bisup
