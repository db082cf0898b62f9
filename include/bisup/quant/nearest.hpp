// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do float weights become packed ones? quantize<F>(weights) when the format is a type,
// quantize(weights, format) when it is a value; each group goes through a quantizer by itself.

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <bisup/quant/pack_codes.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

namespace detail {

template <int Bits, class L, Quantizer Q>
Result<PackedBuffer> quantize_tiles(MatrixRef<const float> weights, const PackedShape& shape,
                                    const Q& quantizer, ThreadPool& pool) {
  const auto round = [&](int r, int g,
                         std::span<std::uint8_t> codes) -> std::optional<GroupParameters> {
    const std::span<const float> x(weights.row_data(r) + g * shape.group_codes(), codes.size());
    for (const float v : x) {
      if (!std::isfinite(v)) return std::nullopt;
    }
    return quantizer.quantize(shape.format, x, codes);
  };
  return pack_tiles<Bits, L>(shape, pool, round);
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
