// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do tiles make a matrix? PackedShape does the arithmetic, PackedView<F, L, S> is what typed
// code passes around, PackedPanels is the panel16 form with run-time fields that kernels read.
// Codes: [row tile][column tile][tile bytes]; scales and zero points: [row tile][group][tile row].

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <bisup/core/float16.hpp>
#include <bisup/core/format.hpp>
#include <bisup/pack/layout.hpp>

namespace bisup {

enum class Space : std::uint8_t { host, device };

// Sizes of a packed matrix. Rows and columns are padded to whole tiles; the last group of a row may
// be shorter than the others.
struct PackedShape {
  Format format;
  int rows = 0, cols = 0;
  int tile_rows = panel16::tile_rows, tile_codes = panel16::tile_codes;

  [[nodiscard]] BISUP_HOST_DEVICE constexpr int row_tiles() const {
    return (rows + tile_rows - 1) / tile_rows;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int col_tiles() const {
    return (cols + tile_codes - 1) / tile_codes;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int padded_rows() const {
    return row_tiles() * tile_rows;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int padded_cols() const {
    return col_tiles() * tile_codes;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int group_codes() const {
    return format.group == 0 ? padded_cols() : format.group;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int groups() const {
    return (padded_cols() + group_codes() - 1) / group_codes();
  }
  // Columns of one group that are not padding of the row.
  [[nodiscard]] BISUP_HOST_DEVICE constexpr int group_cols(int group) const {
    const int left = cols - group * group_codes();
    return left < group_codes() ? left : group_codes();
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t tile_size() const {  // bytes
    return static_cast<std::size_t>(tile_rows) *
           static_cast<std::size_t>(tile_codes * format.bits) / 8;
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t row_tile_size() const {  // bytes
    return static_cast<std::size_t>(col_tiles()) * tile_size();
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t code_bytes() const {
    return static_cast<std::size_t>(row_tiles()) * row_tile_size();
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t scale_count() const {
    return static_cast<std::size_t>(padded_rows()) * static_cast<std::size_t>(groups());
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t scale_index(int row, int group) const {
    return (static_cast<std::size_t>(row / tile_rows) * static_cast<std::size_t>(groups()) +
            static_cast<std::size_t>(group)) *
               static_cast<std::size_t>(tile_rows) +
           static_cast<std::size_t>(row % tile_rows);
  }
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t tile_offset(int row, int col) const {
    return static_cast<std::size_t>(row / tile_rows) * row_tile_size() +
           static_cast<std::size_t>(col / tile_codes) * tile_size();
  }
  // All that is stored, padding included.
  [[nodiscard]] BISUP_HOST_DEVICE constexpr std::size_t bytes() const {
    return code_bytes() + scale_count() * static_cast<std::size_t>(bytes_of(format.scale)) +
           (format.affine() ? scale_count() : 0);
  }
  [[nodiscard]] constexpr double bits_per_weight() const {
    return 8.0 * static_cast<double>(bytes()) / (static_cast<double>(rows) * cols);
  }
};

template <AnyFormat F>
using scale_t =
    std::conditional_t<F::value.scale == Scale::f32, float,
                       std::conditional_t<F::value.scale == Scale::f16, Half, BFloat16>>;

// Trivially copyable: goes into a kernel by value. The space is part of the type, so device memory
// cannot be handed to a CPU kernel.
template <AnyFormat F, CodeLayout<F::bits> L = panel16, Space S = Space::host>
struct PackedView {
  const std::uint8_t* codes;
  const scale_t<F>* scales;
  const std::uint8_t* zeros;  // integer zero points; null when symmetric
  int rows, cols;

  [[nodiscard]] BISUP_HOST_DEVICE constexpr PackedShape shape() const {
    return {F::value, rows, cols, L::tile_rows, L::tile_codes};
  }
  [[nodiscard]] BISUP_HOST_DEVICE int code(int row, int col) const {
    return load_code<F::bits, L>(codes + shape().tile_offset(row, col), row % L::tile_rows,
                                 col % L::tile_codes);
  }
  // The weight that a code stands for: scale * (code - zero).
  [[nodiscard]] BISUP_HOST_DEVICE float operator()(int row, int col) const {
    const std::size_t group = shape().scale_index(row, col / shape().group_codes());
    const int zero = F::value.affine() ? zeros[group] : -F::lowest;
    return to_float(scales[group]) * static_cast<float>(code(row, col) - zero);
  }
};

// What kernels read: panel16, everything but the bits and the zero kind as run-time fields.
struct PackedPanels {
  const std::uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const std::uint8_t* zeros = nullptr;
  PackedShape shape;

  PackedPanels() = default;
  PackedPanels(const std::uint8_t* c, const void* s, const std::uint8_t* z, PackedShape sh)
      : codes(c), scales(s), zeros(z), shape(sh) {}
  template <AnyFormat F>
  PackedPanels(const PackedView<F, panel16>& view)  // NOLINT: the same matrix, less typed
      : PackedPanels(view.codes, view.scales, view.zeros, view.shape()) {}

  [[nodiscard]] float scale(int row, int group) const {
    const std::size_t i = shape.scale_index(row, group);
    switch (shape.format.scale) {
      case Scale::f16: return to_float(static_cast<const Half*>(scales)[i]);
      case Scale::bf16: return to_float(static_cast<const BFloat16*>(scales)[i]);
      case Scale::f32: break;
    }
    return static_cast<const float*>(scales)[i];
  }
  // What is subtracted from a stored code to get the integer it stands for.
  [[nodiscard]] int zero(int row, int group) const {
    return shape.format.affine() ? zeros[shape.scale_index(row, group)] : -shape.format.lowest();
  }
};

}  // namespace bisup
