// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do chosen codes become packed weights? pack_codes() writes codes and parameters as they are,
// so what a rounding engine chose is stored without being rounded again.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/pack/packed_tensor.hpp>

namespace bisup {

namespace detail {

// Packs the rows of one row tile; round(row, group, codes) fills the codes of a group and returns
// its parameters, or nothing to refuse. Padding columns get the code of zero, padding rows repeat
// scale 1. Returns whether nothing was refused and no scale overflows its type.
template <int Bits, class L, class Round>
bool pack_row_tile(const PackedShape& shape, int row_tile, PackedBuffer& buffer, Round&& round) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(shape.padded_cols()));
  for (int r = row_tile * L::tile_rows; r < (row_tile + 1) * L::tile_rows; ++r) {
    for (int g = 0; g < shape.groups(); ++g) {
      const int begin = g * shape.group_codes();
      const int end = std::min(begin + shape.group_codes(), shape.padded_cols());
      const auto count = static_cast<std::size_t>(std::max(shape.group_cols(g), 0));
      GroupParameters p{1.0f, -shape.format.lowest()};
      const std::span<std::uint8_t> group(codes.data() + begin,
                                          static_cast<std::size_t>(end - begin));
      if (r < shape.rows && count > 0) {
        const std::optional<GroupParameters> rounded = round(r, g, group.first(count));
        if (!rounded || !std::isfinite(rounded->scale)) return false;
        p = *rounded;
      }
      std::fill(group.begin() + static_cast<std::ptrdiff_t>(r < shape.rows ? count : 0),
                group.end(), static_cast<std::uint8_t>(p.zero));
      const std::size_t at = shape.scale_index(r, g);
      store_scale(shape.format, buffer.scales(), at, p.scale);
      if (shape.format.affine()) buffer.zeros()[at] = static_cast<std::uint8_t>(p.zero);
    }
    for (int c = 0; c < shape.padded_cols(); ++c) {
      store_code<Bits, L>(buffer.codes() + shape.tile_offset(r, c), r % L::tile_rows,
                          c % L::tile_codes, codes[static_cast<std::size_t>(c)]);
    }
  }
  return true;
}

template <int Bits, class L, class Round>
Result<PackedBuffer> pack_tiles(const PackedShape& shape, ThreadPool& pool, Round&& round) {
  auto buffer = PackedBuffer::allocate(shape);
  if (!buffer) return buffer.error();
  std::atomic<int> refused = -1;
  pool.parallel_for(shape.row_tiles(), [&](int tile, int) {
    if (!pack_row_tile<Bits, L>(shape, tile, *buffer, round)) refused = tile;
  });
  if (refused >= 0) {
    const int row = refused * L::tile_rows;
    return Error{Errc::not_finite,
                 "a weight in rows " + std::to_string(row) + " to " +
                     std::to_string(std::min(row + L::tile_rows, shape.rows) - 1) +
                     " is NaN, infinite, or too large for the scale type"};
  }
  return std::move(buffer).value();
}

}  // namespace detail

// codes: [rows, cols], stored codes 0 ... 2^bits - 1; parameters: [rows, groups], their scales
// exact in the format's scale type. Errors: not_finite (a scale), wrong_shape (empty),
// out_of_memory.
[[nodiscard]] inline Result<AnyPackedTensor> pack_codes(MatrixRef<const std::uint8_t> codes,
                                                        MatrixRef<const GroupParameters> parameters,
                                                        const Format& format,
                                                        ThreadPool& pool = ThreadPool::shared()) {
  const PackedShape shape{format, codes.rows(), codes.cols()};
  BISUP_EXPECTS(parameters.rows() == codes.rows() &&
                parameters.cols() == format.groups_per_row(codes.cols()));
  const auto stored = [&](int r, int g, std::span<std::uint8_t> out) {
    std::copy_n(codes.row_data(r) + g * shape.group_codes(), out.size(), out.begin());
    return std::optional(parameters(r, g));
  };
  auto buffer = with_bits(format.bits, [&]<int Bits>() {
    return detail::pack_tiles<Bits, panel16>(shape, pool, stored);
  });
  if (!buffer) return buffer.error();
  return AnyPackedTensor(shape, std::move(buffer).value());
}

}  // namespace bisup
