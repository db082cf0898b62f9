// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How do packed weights become floats: whole rows, or on the fly for a few tokens of float
// activations? Included by each_target.hpp.

#include <cstddef>
#include <cstdint>

#include <bisup/core/matrix.hpp>
#include <bisup/kernel/scalar.hpp>

namespace bisup::BISUP_LANES {

struct PanelGroup {  // the parameters of one group of 16 rows
  alignas(64) float scale[panel16::tile_rows];
  alignas(64) std::int32_t zero[panel16::tile_rows];
};

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void load_group(const PackedPanels& w, std::size_t at, PanelGroup& group) noexcept {
#pragma GCC unroll 2
  for (int r = 0; r < panel16::tile_rows; r += lane_count, at += lane_count) {
    store(group.scale + r, load_scales(w.scales, w.shape.format.scale, at));
    Ints zero = splat(1 << (Bits - 1));
    if constexpr (Affine) zero = load_bytes(w.zeros + at);
    store(group.zero + r, zero);
  }
}

// Sixteen codes (four steps) of rows [first, last) of a panel; `out` is where row 0's would go.
template <int Bits, int FirstStep>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void store_rows(const std::uint8_t* tile, const PanelGroup& group, int first, int last,
                    int cols, float* out, std::ptrdiff_t stride) noexcept {
  constexpr int row_bytes = 16;
  alignas(64) std::uint8_t codes[panel16::tile_rows * row_bytes];
#pragma GCC unroll 2
  for (int part = 0; part < panel_parts; ++part, tile += part_bytes) {
    store_rows_of(unpack<Bits, FirstStep>(tile), unpack<Bits, FirstStep + 1>(tile),
                  unpack<Bits, FirstStep + 2>(tile), unpack<Bits, FirstStep + 3>(tile),
                  codes + part * lane_count * row_bytes);
  }
  for (int r = first; r < last; ++r) {
    const int place = r / lane_count * lane_count + row_place(r % lane_count);
    const Ints zero = splat(group.zero[r]);
    const Floats scale = splat(group.scale[r]);
#pragma GCC unroll 2
    for (int c = 0; c < 16; c += lane_count) {
      const Ints code = load_bytes(codes + place * row_bytes + c);
      if (c < cols)
        store_first(out + r * stride + c, multiply(to_floats(subtract(code, zero)), scale),
                    cols - c);
    }
  }
}

// Limited by: writing, four bytes for every code.
// Registers: four to eight of codes, one row at a time.
// Not tried: a 16 x 16 transpose of floats (four times as many shuffles as of bytes).
template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
void dequantize(const PackedPanels& w, int first_row, MatrixRef<float> out) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const PackedShape& shape = w.shape;
  const int last_row = first_row + out.rows(), tiles = shape.col_tiles(), groups = shape.groups();
  const int group_tiles = shape.group_codes() / panel16::tile_codes, cols = shape.cols;
  const std::ptrdiff_t stride = out.stride();
  PanelGroup group;
  for (int panel = first_row / 16; panel * 16 < last_row; ++panel) {
    const int first = first_row > panel * 16 ? first_row - panel * 16 : 0;
    const int last = last_row - panel * 16 < 16 ? last_row - panel * 16 : 16;
    float* const at = out.data() + (panel * 16 - first_row) * stride;
    const std::uint8_t* tile =
        w.codes + static_cast<std::size_t>(panel) * static_cast<std::size_t>(tiles) * tile_size;
    for (int i = 0; i < tiles; ++i, tile += tile_size) {
      if (i % group_tiles == 0) {
        load_group<Bits, Affine>(w, static_cast<std::size_t>(panel * groups + i / group_tiles) * 16,
                                 group);
      }
      const int c = i * panel16::tile_codes;
      store_rows<Bits, 0>(tile, group, first, last, cols - c, at + c, stride);
      store_rows<Bits, 4>(tile, group, first, last, cols - c - 16, at + c + 16, stride);
    }
  }
}

template <int K, int Tokens, int Parts>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void multiply_column(const Ints (&u)[Parts], const Floats (&zero)[Parts],
                         const Floats (&scale)[Parts], const float* x, std::ptrdiff_t stride,
                         Floats (&sum)[Parts][Tokens]) noexcept {
#pragma GCC unroll 8
  for (int p = 0; p < Parts; ++p) {
    const Floats v = multiply(subtract(above_two23(u[p], K), zero[p]), scale[p]);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      sum[p][t] = multiply_add(v, splat(x[t * stride + K]), sum[p][t]);
  }
}

template <int Bits, int Step, int Tokens, int Parts>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE
    void multiply_columns(const std::uint8_t* const (&tiles)[Parts], const Floats (&zero)[Parts],
                          const Floats (&scale)[Parts], const float* x, std::ptrdiff_t stride,
                          Floats (&sum)[Parts][Tokens]) noexcept {
  if constexpr (Step < panel16::steps) {
    Ints u[Parts];
#pragma GCC unroll 8
    for (int p = 0; p < Parts; ++p) u[p] = unpack<Bits, Step>(tiles[p]);
    multiply_column<0>(u, zero, scale, x, stride, sum);
    multiply_column<1>(u, zero, scale, x, stride, sum);
    multiply_column<2>(u, zero, scale, x, stride, sum);
    multiply_column<3>(u, zero, scale, x, stride, sum);
    multiply_columns<Bits, Step + 1>(tiles, zero, scale, x + 4, stride, sum);
  }
}

// Tokens tokens of floats, [Tokens, padded columns], by Parts parts of panels, from part `first`
// on; parts from `last` on repeat the one before and are not stored. Each output is one chain of
// fused multiply-adds over the columns in order, as in the dense product of dequantized weights.
// Limited by: four or five instructions that unpack for each multiply-add, with few tokens.
// Registers: Parts Tokens sums, two parameters a part, codes, two constants.
// Nothing else was tried.
template <int Bits, bool Affine, int Tokens, int Parts>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
void weight_only_tile(const PackedPanels& w, const float* x, std::ptrdiff_t stride, float* y,
                      std::ptrdiff_t y_stride, int first, int last) noexcept {
  constexpr int tile_size = Bits * panel16::vector_bytes;
  const int tiles_a_row = w.shape.col_tiles(), groups = w.shape.groups();
  const int group_tiles = w.shape.group_codes() / panel16::tile_codes;
  const std::uint8_t* tiles[Parts];
  std::size_t at[Parts];
  Floats sum[Parts][Tokens];
#pragma GCC unroll 8
  for (int p = 0; p < Parts; ++p) {
    const int part = first + p < last ? first + p : last - 1, within = part % panel_parts;
    const auto panel = static_cast<std::size_t>(part / panel_parts);
    tiles[p] =
        w.codes + panel * static_cast<std::size_t>(tiles_a_row) * tile_size + within * part_bytes;
    at[p] = panel * static_cast<std::size_t>(groups) * panel16::tile_rows +
            static_cast<std::size_t>(within * lane_count);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) sum[p][t] = splat(0.0f);
  }
  for (int left = tiles_a_row; left > 0; left -= group_tiles) {
    Floats zero[Parts], scale[Parts];
#pragma GCC unroll 8
    for (int p = 0; p < Parts; ++p) {
      Ints point = splat(1 << (Bits - 1));
      if constexpr (Affine) point = load_bytes(w.zeros + at[p]);
      zero[p] = bits_as_floats(add(point, splat(two23)));
      scale[p] = load_scales(w.scales, w.shape.format.scale, at[p]);
      at[p] += panel16::tile_rows;
    }
    for (int i = left < group_tiles ? left : group_tiles; i > 0; --i) {
      multiply_columns<Bits, 0>(tiles, zero, scale, x, stride, sum);
      x += panel16::tile_codes;
#pragma GCC unroll 8
      for (int p = 0; p < Parts; ++p) tiles[p] += tile_size;
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Parts; ++p) {
    const int row = (first + p) * lane_count;
    if (first + p >= last || row >= w.shape.rows) continue;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t)
      store_first(y + t * y_stride + row, sum[p][t], w.shape.rows - row);
  }
}

template <int Bits, bool Affine>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
void weight_only(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                 GemmRange range) noexcept {
  constexpr int few = register_count >= 32 ? 4 : 2, many = 2;  // parts of one token, of several
  const std::ptrdiff_t stride = x.stride(), y_stride = y.stride();
  const int last = range.last_panel * panel_parts;
  for (int t = range.first_token; t < range.last_token;) {
    const float* in = x.data() + t * stride;
    float* out = y.data() + t * y_stride;
    const int left = range.last_token - t, step = left == 1 ? few : many;
    for (int p = range.first_panel * panel_parts; p < last; p += step) {
      switch (left) {
        case 1:
          weight_only_tile<Bits, Affine, 1, few>(w, in, stride, out, y_stride, p, last);
          break;
        case 2:
          weight_only_tile<Bits, Affine, 2, many>(w, in, stride, out, y_stride, p, last);
          break;
        case 3:
          weight_only_tile<Bits, Affine, 3, many>(w, in, stride, out, y_stride, p, last);
          break;
        default:
          weight_only_tile<Bits, Affine, 4, many>(w, in, stride, out, y_stride, p, last);
          break;
      }
    }
    t += left < 4 ? left : 4;
  }
}

}  // namespace bisup::BISUP_LANES
