// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where does each bit of a code live? A layout is a function from (row, code, bit) of one tile to a
// bit address. Packing, unpacking and the proof that no bit is lost or used twice follow from it.
// Next: pack/packed_view.hpp strings tiles together into a matrix.

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <bisup/core/platform.hpp>

namespace bisup {

struct BitAddress {
  int byte;
  int bit;
};

// A tile is tile_rows rows by tile_codes consecutive codes; it fills exactly tile_bytes<Bits>
// bytes.
template <class L, int Bits>
concept CodeLayout = requires {
  { L::tile_rows } -> std::convertible_to<int>;
  { L::tile_codes } -> std::convertible_to<int>;
  { L::template at<Bits>(0, 0, 0) } -> std::same_as<BitAddress>;
};

template <class L, int Bits>
inline constexpr int tile_bytes = L::tile_rows* L::tile_codes* Bits / 8;

// One row, codes one after the other, least significant bit first: what files and caches use.
struct sequential {
  static constexpr int tile_rows = 1;
  static constexpr int tile_codes = 32;
  template <int Bits>
  [[nodiscard]] BISUP_HOST_DEVICE static constexpr BitAddress at(int, int code, int bit) {
    const int position = code * Bits + bit;
    return {position / 8, position % 8};
  }
};

// One row, all lowest bits first, then all next bits: what bit-serial kernels use.
struct planar {
  static constexpr int tile_rows = 1;
  static constexpr int tile_codes = 32;
  template <int Bits>
  [[nodiscard]] BISUP_HOST_DEVICE static constexpr BitAddress at(int, int code, int bit) {
    const int position = bit * tile_codes + code;
    return {position / 8, position % 8};
  }
};

// 16 rows; the native layout of every target. A step is four consecutive codes of each of 16 rows:
// 64 codes, one byte lane each (lane = 4 row + code mod 4), so one 512-bit, two 256-bit or four
// 128-bit registers hold the operands of a four-way byte dot product. A tile is eight steps in Bits
// vectors of 64 bytes. Each byte holds floor(8 / Bits) whole codes; the bits that are left over
// hold, in order, the pieces of the remaining steps. For 1, 2, 4 and 8 bits nothing is left over;
// for 3, 5, 6 and 7 bits 6, 5, 6 and 7 of the eight steps unpack with one shift and one mask.
// Rejected: bit planes plus mask registers for the odd bit (two instructions more a step, and no
// mask registers below AVX-512).
struct panel16 {
  static constexpr int tile_rows = 16;
  static constexpr int tile_codes = 32;
  static constexpr int steps = 8;          // of four codes
  static constexpr int vector_bytes = 64;  // one step of 16 rows, a byte a code

  template <int Bits>
  static constexpr int whole_codes = 8 / Bits;  // in one byte
  template <int Bits>
  static constexpr int whole_steps = whole_codes<Bits>* Bits;  // steps that are not in pieces
  template <int Bits>
  static constexpr int spare_bits = 8 - whole_codes<Bits>* Bits;  // of one byte

  // Vector and bit inside each of its bytes where bit `bit` of step `step` lives.
  template <int Bits>
  [[nodiscard]] BISUP_HOST_DEVICE static constexpr BitAddress in_step(int step, int bit) {
    if (step < whole_steps<Bits>) {
      return {step / whole_codes<Bits>, step % whole_codes<Bits> * Bits + bit};
    }
    constexpr int spare = spare_bits<Bits> == 0 ? 1 : spare_bits<Bits>;
    const int piece = (step - whole_steps<Bits>)*Bits + bit;
    return {piece / spare, whole_codes<Bits> * Bits + piece % spare};
  }
  template <int Bits>
  [[nodiscard]] BISUP_HOST_DEVICE static constexpr BitAddress at(int row, int code, int bit) {
    const BitAddress address = in_step<Bits>(code / 4, bit);
    return {address.byte * vector_bytes + row * 4 + code % 4, address.bit};
  }
};

// The obviously right way to read and write a code; the oracle of every unpacker.
template <int Bits, CodeLayout<Bits> L>
[[nodiscard]] BISUP_HOST_DEVICE constexpr int load_code(const std::uint8_t* tile, int row,
                                                        int code) {
  int value = 0;
  for (int bit = 0; bit < Bits; ++bit) {
    const BitAddress a = L::template at<Bits>(row, code, bit);
    value |= ((tile[a.byte] >> a.bit) & 1) << bit;
  }
  return value;
}

template <int Bits, CodeLayout<Bits> L>
BISUP_HOST_DEVICE constexpr void store_code(std::uint8_t* tile, int row, int code, int value) {
  for (int bit = 0; bit < Bits; ++bit) {
    const BitAddress a = L::template at<Bits>(row, code, bit);
    const unsigned mask = 1u << a.bit;
    const unsigned set = static_cast<unsigned>(value >> bit & 1) << a.bit;
    tile[a.byte] = static_cast<std::uint8_t>((tile[a.byte] & ~mask) | set);
  }
}

// Whether `at` maps the bits of a tile one to one onto its bytes' bits.
template <int Bits, CodeLayout<Bits> L>
[[nodiscard]] constexpr bool is_bijection() {
  constexpr int bytes = tile_bytes<L, Bits>;
  std::uint8_t seen[static_cast<std::size_t>(bytes)] = {};
  for (int row = 0; row < L::tile_rows; ++row) {
    for (int code = 0; code < L::tile_codes; ++code) {
      for (int bit = 0; bit < Bits; ++bit) {
        const BitAddress a = L::template at<Bits>(row, code, bit);
        if (a.byte < 0 || a.byte >= bytes || a.bit < 0 || a.bit > 7) return false;
        if (seen[a.byte] >> a.bit & 1) return false;
        seen[a.byte] = static_cast<std::uint8_t>(seen[a.byte] | 1u << a.bit);
      }
    }
  }
  return true;  // injective into a set of the same size
}

// A layout that may own codes: none is lost.
template <class L, int Bits>
concept BijectiveLayout = CodeLayout<L, Bits> && is_bijection<Bits, L>();

}  // namespace bisup
