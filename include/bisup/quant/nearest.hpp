// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do float weights become packed ones? quantize<F>(weights) when the format is a type,
// quantize(weights, format) when it is a value; each group goes through a quantizer by itself.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

namespace detail {

inline void store_scale(const Format& format, void* scales, std::size_t i, float scale) {
  switch (format.scale) {
    case Scale::f16: static_cast<Half*>(scales)[i] = to_half(scale); return;
    case Scale::bf16: static_cast<BFloat16*>(scales)[i] = to_bfloat16(scale); return;
    case Scale::f32: static_cast<float*>(scales)[i] = scale; return;
  }
}

// Rounds the rows of one row tile. Padding columns get the code of zero, padding rows repeat
// scale 1. Returns false if a weight is not finite, or a scale overflows its type.
template <int Bits, class L, Quantizer Q>
bool quantize_row_tile(MatrixRef<const float> weights, const PackedShape& shape, const Q& quantizer,
                       int row_tile, PackedBuffer& buffer) {
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
        const std::span<const float> x(weights.row_data(r) + begin, count);
        for (const float v : x) {
          if (!std::isfinite(v)) return false;
        }
        p = quantizer.quantize(shape.format, x, group.first(count));
        if (!std::isfinite(p.scale)) return false;
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

template <int Bits, class L, Quantizer Q>
Result<PackedBuffer> quantize_tiles(MatrixRef<const float> weights, const PackedShape& shape,
                                    const Q& quantizer, ThreadPool& pool) {
  auto buffer = PackedBuffer::allocate(shape);
  if (!buffer) return buffer.error();
  std::atomic<int> refused = -1;
  pool.parallel_for(shape.row_tiles(), [&](int tile, int) {
    if (!quantize_row_tile<Bits, L>(weights, shape, quantizer, tile, *buffer)) refused = tile;
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

// weights: [out features, in features]. Errors: not_finite, wrong_shape (empty), out_of_memory.
template <AnyFormat F, CodeLayout<F::bits> L = panel16, Quantizer Q = Nearest>
Result<PackedTensor<F, L>> quantize(MatrixRef<const float> weights, const Q& quantizer = {},
                                    ThreadPool& pool = ThreadPool::shared()) {
  const PackedShape shape{F::value, weights.rows(), weights.cols(), L::tile_rows, L::tile_codes};
  auto buffer = detail::quantize_tiles<F::bits, L>(weights, shape, quantizer, pool);
  if (!buffer) return buffer.error();
  return PackedTensor<F, L>(shape, std::move(buffer).value());
}

template <Quantizer Q = Nearest>
Result<AnyPackedTensor> quantize(MatrixRef<const float> weights, const Format& format,
                                 const Q& quantizer = {}, ThreadPool& pool = ThreadPool::shared()) {
  const PackedShape shape{format, weights.rows(), weights.cols()};
  auto buffer = with_bits(format.bits, [&]<int Bits>() {
    return detail::quantize_tiles<Bits, panel16>(weights, shape, quantizer, pool);
  });
  if (!buffer) return buffer.error();
  return AnyPackedTensor(shape, std::move(buffer).value());
}

}  // namespace bisup
