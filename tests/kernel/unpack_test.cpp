// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/neon/unpack.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/unpack.hpp>
#include <array>
#include <iostream>

#include <bisup_test.hpp>

using namespace bisup;

namespace {

// The pieces of every step put together are the code that the layout defines.
template <int Bits>
constexpr bool pieces_make_codes() {
  for (int step = 0; step < panel16::steps; ++step) {
    int covered = 0;
    for (int bit = 0; bit < Bits;) {
      const Piece piece = piece_at<Bits>(step, bit);
      for (int i = 0; i < piece.length; ++i) {
        const BitAddress address = panel16::in_step<Bits>(step, bit + i);
        if (address.byte != piece.vector || address.bit != piece.from + i) return false;
      }
      covered |= piece.mask();
      bit += piece.length;
    }
    if (covered != (1 << Bits) - 1) return false;
  }
  return true;
}
static_assert(pieces_make_codes<1>() && pieces_make_codes<2>() && pieces_make_codes<3>() && pieces_make_codes<4>());
static_assert(pieces_make_codes<5>() && pieces_make_codes<6>() && pieces_make_codes<7>() && pieces_make_codes<8>());

#if BISUP_X86
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
void store_step_avx2(const std::uint8_t* tile, std::uint8_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), avx2::unpack<Bits, Step>(tile));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), avx2::unpack<Bits, Step>(tile + 32));
}
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
void store_step_avx512(const std::uint8_t* tile, std::uint8_t* out) {
  _mm512_storeu_si512(out, avx512::unpack<Bits, Step>(tile));
}

template <int Bits, int Step>
inline constexpr std::array step_stores = {
    Entry<void (*)(const std::uint8_t*, std::uint8_t*)>{Target::avx512, store_step_avx512<Bits, Step>},
    Entry<void (*)(const std::uint8_t*, std::uint8_t*)>{Target::avx2, store_step_avx2<Bits, Step>}};
#elif BISUP_ARM64
template <int Bits, int Step>
BISUP_COMPILED_FOR(BISUP_ISA_NEON)
void store_step_neon(const std::uint8_t* tile, std::uint8_t* out) {
  for (int quarter = 0; quarter < 64; quarter += 16) vst1q_u8(out + quarter, neon::unpack_quarter<Bits, Step>(tile + quarter));
}

template <int Bits, int Step>
inline constexpr std::array step_stores = {
    Entry<void (*)(const std::uint8_t*, std::uint8_t*)>{Target::neon, store_step_neon<Bits, Step>}};
#endif

#if BISUP_X86 || BISUP_ARM64
template <int Bits, int Step>
void check_step(const std::uint8_t* tile) {
  for (const auto& [target, store] : step_stores<Bits, Step>) {
    if (!runs_here(target)) continue;
    std::array<std::uint8_t, 64> codes{};
    store(tile, codes.data());
    CAPTURE(Bits, Step, name(target));
    for (std::size_t i = 0; i < 64; ++i) {
      const int lane = static_cast<int>(i);
      REQUIRE(codes[i] == load_code<Bits, panel16>(tile, lane / 4, 4 * Step + lane % 4));
    }
  }
}

template <int Bits>
void check_tile() {
  std::array<std::uint8_t, tile_bytes<panel16, Bits>> tile{};
  Random random(Bits);
  for (auto& byte : tile) byte = static_cast<std::uint8_t>(random.bits());
  check_step<Bits, 0>(tile.data()), check_step<Bits, 1>(tile.data());
  check_step<Bits, 2>(tile.data()), check_step<Bits, 3>(tile.data());
  check_step<Bits, 4>(tile.data()), check_step<Bits, 5>(tile.data());
  check_step<Bits, 6>(tile.data()), check_step<Bits, 7>(tile.data());
}
#endif

}  // namespace

TEST_CASE("vector unpackers read the codes that the layout stores") {
#if BISUP_X86 || BISUP_ARM64
  for (const auto& [target, store] : step_stores<4, 0>) {
    if (!runs_here(target)) std::cout << "skipped: " << name(target) << " does not run on this processor\n";
  }
  check_tile<2>(), check_tile<3>(), check_tile<4>(), check_tile<5>();
  check_tile<6>(), check_tile<7>(), check_tile<8>();
#endif
}
