// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which shifts and masks turn panel16 bytes back into codes? A step of whole codes is one field; a
// step in pieces is several. Derived from panel16::in_step, so no kernel knows the layout twice.
// Next: the unpack.hpp of each target executes them.

#include <cstdint>

#include <bisup/pack/layout.hpp>

namespace bisup {

// A run of consecutive bits of one step that lie in one vector: bits [to, to + length) of the code
// are bits [from, from + length) of every byte of vector `vector`.
struct Piece {
  int vector, from, to, length;

  [[nodiscard]] constexpr int shift() const { return from - to; }  // right; negative: left
  [[nodiscard]] constexpr int mask() const { return ((1 << length) - 1) << to; }
};

template <int Bits>
[[nodiscard]] constexpr Piece piece_at(int step, int bit) {
  const BitAddress start = panel16::in_step<Bits>(step, bit);
  Piece piece{start.byte, start.bit, bit, 1};
  while (bit + piece.length < Bits) {
    const BitAddress next = panel16::in_step<Bits>(step, bit + piece.length);
    if (next.byte != start.byte || next.bit != start.bit + piece.length) break;
    ++piece.length;
  }
  return piece;
}

// A code in the low bits of 2^23 is exact, so taking 2^23 and a zero point off converts and centres
// at once. 2^23 in bits:
inline constexpr std::int32_t two23 = 0x4b000000;

static_assert(piece_at<4>(1, 0).shift() == 4 && piece_at<4>(1, 0).mask() == 15);
static_assert(piece_at<3>(6, 2).vector == 1 && piece_at<3>(6, 2).mask() == 4);

}  // namespace bisup
