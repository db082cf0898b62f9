// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does each operation compute? This file is the specification: every other kernel must agree
// with it, integers to the bit and floats within the bound of their summation order. Any bits, any
// group, no intrinsics, never optimised.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

// Part of a product that one task computes: whole panels of 16 output features, any tokens.
struct GemmRange {
  int first_panel = 0, last_panel = 0;  // [first, last)
  int first_token = 0, last_token = 0;
};

// Weight-activation products accumulate u * a in 32 bits, u < 2^8 and |a| < 2^7: a group of up to
// 2^31 / (255 * 127) = 66311 codes cannot overflow. Whole-row groups are checked against it.
inline constexpr int longest_group = 66311;

namespace scalar {

// Quantizes rows of x (docs/formats.md, symmetric, dynamic): codes, scales and sums as
// ActivationView says. Delta = c max|x| / Q_b, code = round(x * (1 / Delta)).
BISUP_SCALAR inline void quantize_activation(MatrixRef<const float> x,
                                             const ActivationFormat& format,
                                             MatrixRef<std::int8_t> codes, MatrixRef<float> scales,
                                             MatrixRef<std::int32_t> sums, int first_token,
                                             int last_token) noexcept {
  const Format levels{.bits = format.bits, .group = format.group, .scale = Scale::f32};
  const int padded = codes.cols(), cols = x.cols();
  const int group = format.group == 0 ? padded : format.group;
  for (int t = first_token; t < last_token; ++t) {
    const std::span<const float> row(x.row_data(t), static_cast<std::size_t>(cols));
    GroupParameters p = fit(levels, row, {.high = format.clip});
    for (int g = 0; g < sums.cols(); ++g) {
      const int begin = g * group, end = std::min(begin + group, cols);
      if (scales.cols() > 1 || sums.cols() == 1) {
        p = fit(levels,
                row.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
                {.high = format.clip});
      }
      const float inverse = 1.0f / p.scale;
      std::int32_t sum = 0;
      for (int i = begin; i < std::min(begin + group, padded); ++i) {
        const int q = i < cols ? encode(levels, x(t, i), inverse, p.zero) - p.zero : 0;
        codes(t, i) = static_cast<std::int8_t>(q);
        sum += q;
      }
      sums(t, g) = sum;
      if (g < scales.cols()) scales(t, g) = p.scale;
    }
  }
}

// y[t, r] = sum over groups of s_w s_a (sum of u a - z_w sum of a): u stored codes, z_w the zero
// point (2^(b-1) for symmetric weights). The inner sums are 32-bit integers.
template <int Bits>
BISUP_SCALAR void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
                       GemmRange range) noexcept {
  const PackedShape& shape = w.shape;
  const int last_row = std::min(range.last_panel * panel16::tile_rows, shape.rows);
  for (int t = range.first_token; t < range.last_token; ++t) {
    for (int r = range.first_panel * panel16::tile_rows; r < last_row; ++r) {
      float sum = 0;
      for (int g = 0; g < shape.groups(); ++g) {
        const int begin = g * shape.group_codes();
        const int end = std::min(begin + shape.group_codes(), shape.padded_cols());
        std::int32_t dot = 0;
        for (int c = begin; c < end; ++c) {
          const int u = load_code<Bits, panel16>(w.codes + shape.tile_offset(r, c),
                                                 r % panel16::tile_rows, c % panel16::tile_codes);
          dot += u * x.codes[t * x.padded_cols + c];
        }
        dot -= w.zero(r, g) * x.sums[t * x.groups + g];
        sum += w.scale(r, g) * x.scale(t, g) * static_cast<float>(dot);
      }
      y(t, r) = sum;
    }
  }
}

// Rows of packed weights as floats: out[r - first_row, c] = s (u - z).
template <int Bits>
BISUP_SCALAR void dequantize(const PackedPanels& w, int first_row, MatrixRef<float> out) noexcept {
  const PackedShape& shape = w.shape;
  for (int r = first_row; r < first_row + out.rows(); ++r) {
    for (int c = 0; c < shape.cols; ++c) {
      const int g = c / shape.group_codes();
      const int u = load_code<Bits, panel16>(w.codes + shape.tile_offset(r, c),
                                             r % panel16::tile_rows, c % panel16::tile_codes);
      out(r - first_row, c) = w.scale(r, g) * static_cast<float>(u - w.zero(r, g));
    }
  }
}

// y[t, r] = sum over c of s (u - z) x[t, c]: packed weights and float activations.
template <int Bits>
BISUP_SCALAR void weight_only(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                              GemmRange range) noexcept {
  const PackedShape& shape = w.shape;
  const int last_row = std::min(range.last_panel * panel16::tile_rows, shape.rows);
  for (int t = range.first_token; t < range.last_token; ++t) {
    for (int r = range.first_panel * panel16::tile_rows; r < last_row; ++r) {
      float sum = 0;
      for (int c = 0; c < shape.cols; ++c) {
        const int g = c / shape.group_codes();
        const int u = load_code<Bits, panel16>(w.codes + shape.tile_offset(r, c),
                                               r % panel16::tile_rows, c % panel16::tile_codes);
        sum += w.scale(r, g) * static_cast<float>(u - w.zero(r, g)) * x(t, c);
      }
      y(t, r) = sum;
    }
  }
}

// y[t, r] = sum over c of w[r, c] x[t, c], float.
BISUP_SCALAR inline void gemm(const DenseView& w, MatrixRef<const float> x, MatrixRef<float> y,
                              int first_row, int last_row) noexcept {
  for (int t = 0; t < x.rows(); ++t) {
    for (int r = first_row; r < last_row; ++r) {
      float sum = 0;
      for (int c = 0; c < w.cols; ++c) sum += w(r, c) * x(t, c);
      y(t, r) = sum;
    }
  }
}

}  // namespace scalar
}  // namespace bisup
