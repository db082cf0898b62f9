// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What would quantization do to these floats? The simulation: round and decode in place, with the
// same functions as the packed path, so that the two differ by summation order only.

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

// Rows of x in groups of format.group columns (0: whole rows).
template <Quantizer Q = Nearest>
void fake_quantize_rows(MatrixRef<float> x, const Format& format, const Q& quantizer = {},
                        ThreadPool& pool = ThreadPool::shared()) {
  const int group = format.group == 0 ? x.cols() : format.group;
  pool.parallel_for(x.rows(), [&](int r, int) {
    std::array<std::uint8_t, 256> few;
    std::vector<std::uint8_t> many(group > 256 ? static_cast<std::size_t>(group) : 0);
    const std::span<std::uint8_t> codes =
        many.empty() ? std::span<std::uint8_t>(few) : std::span<std::uint8_t>(many);
    for (int begin = 0; begin < x.cols(); begin += group) {
      const auto count = static_cast<std::size_t>(std::min(group, x.cols() - begin));
      const std::span<float> v = x.row(r).subspan(static_cast<std::size_t>(begin), count);
      const GroupParameters p = quantizer.quantize(format, v, codes.first(count));
      for (std::size_t i = 0; i < count; ++i) v[i] = decode(codes[i], p);
    }
  });
}

// What quantize_activation followed by decoding gives.
inline void fake_quantize(MatrixRef<float> x, const ActivationFormat& format,
                          ThreadPool& pool = ThreadPool::shared()) {
  fake_quantize_rows(
      x,
      {.bits = format.bits, .group = format.token_scales ? 0 : format.group, .scale = Scale::f32},
      Nearest{.clip = {.high = format.clip}}, pool);
}

}  // namespace bisup
