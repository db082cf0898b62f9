// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Is a file that was made with one model read with the same? By a number of the model.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <bisup/core/checksum.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

namespace detail {

// The ends of a tensor: other weights differ there too, and a large model stays on its disk.
[[nodiscard]] inline std::uint32_t ends_of(const void* data, std::size_t bytes,
                                           std::uint32_t before) {
  const auto all = std::span(static_cast<const std::byte*>(data), bytes);
  const std::size_t end = std::min<std::size_t>(bytes, 256);
  return crc32c(all.last(end), crc32c(all.first(end), before));
}

}  // namespace detail

// A number that another model, or the same one quantized otherwise, is most unlikely to have.
[[nodiscard]] inline std::uint32_t fingerprint(const llama::Model& model) {
  const llama::Config& c = model.config;
  const std::string what = c.architecture + ' ' + model.scheme.name() + ' ' +
                           std::to_string(c.layers) + ' ' + std::to_string(c.kv_heads) + ' ' +
                           std::to_string(c.head_dim) + ' ' + std::to_string(c.rope_theta);
  std::uint32_t sum = crc32c(std::as_bytes(std::span(what)));
  sum = detail::ends_of(model.embedding.view.data, model.embedding.view.bytes(), sum);
  for (const auto& block : model.blocks) {
    for (const auto& named : llama::named_linears) {
      const llama::AnyLinear& linear = block.*named.linear;
      if (linear.dense() != nullptr) {
        sum = detail::ends_of(linear.dense()->view.data, linear.dense()->view.bytes(), sum);
      } else {
        const PackedPanels& p = linear.packed()->panels();
        sum = detail::ends_of(p.codes, p.shape.code_bytes(), sum);
      }
    }
    for (const auto& named : llama::named_norms) {
      const auto& norm = block.norms.*named.norm;
      sum = detail::ends_of(norm.data(), norm.size() * sizeof(float), sum);
    }
  }
  return sum;
}

}  // namespace bisup::io
