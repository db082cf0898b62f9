// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do conformance tests multiply? Packed weights with random codes, scales and zero points, the
// extreme codes among them, in any format and shape.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <bisup/pack/packed_view.hpp>

inline std::string describe(const bisup::Format& format, int rows, int cols, int tokens) {
  constexpr const char* scales[] = {"f32", "f16", "bf16"};
  return std::to_string(format.bits) + (format.affine() ? " bits affine g" : " bits g") +
         std::to_string(format.group) + " " + scales[static_cast<int>(format.scale)] + ", " +
         std::to_string(rows) + " x " + std::to_string(cols) + ", " + std::to_string(tokens) + " tokens";
}

struct PackedProblem {
  bisup::PackedBuffer buffer;
  bisup::PackedPanels panels;

  // Every bit of the codes is random, padding included: no kernel may let padding rows reach y or
  // padding columns (whose activations are zero) reach a sum.
  PackedProblem(const bisup::Format& format, int rows, int cols) {
    using namespace bisup;
    const PackedShape shape{format, rows, cols};
    buffer = PackedBuffer::allocate(shape).value();
    Random random(static_cast<std::uint64_t>(rows * 1009 + cols * 31 + format.bits));
    for (std::size_t i = 0; i < shape.code_bytes(); ++i) {
      // A quarter of the bytes all ones, a quarter zero: runs of the largest and smallest codes.
      const std::uint32_t kind = random.below(4);
      buffer.codes()[i] = static_cast<std::uint8_t>(kind == 0 ? 255 : kind == 1 ? 0 : random.bits());
    }
    for (std::size_t i = 0; i < shape.scale_count(); ++i) {
      const auto scale = static_cast<float>(0.01 + random.uniform());
      switch (format.scale) {
        case Scale::f16: static_cast<Half*>(buffer.scales())[i] = to_half(scale); break;
        case Scale::bf16: static_cast<BFloat16*>(buffer.scales())[i] = to_bfloat16(scale); break;
        case Scale::f32: static_cast<float*>(buffer.scales())[i] = scale; break;
      }
      const std::uint32_t codes = 1u << format.bits;
      if (format.affine()) buffer.zeros()[i] = static_cast<std::uint8_t>(random.below(codes));
    }
    panels = PackedPanels(buffer.codes(), buffer.scales(), buffer.zeros(), shape);
  }
};

// Activation codes with runs of -127 and 127, and their sums.
inline bisup::QuantizedActivation random_activation(const bisup::ActivationFormat& format, int tokens, int cols) {
  using namespace bisup;
  QuantizedActivation x;
  x.resize(format, tokens, cols);
  Random random(static_cast<std::uint64_t>(tokens * 17 + cols));
  const int group = format.group == 0 ? x.codes().cols() : format.group;
  for (int t = 0; t < tokens; ++t) {
    for (int g = 0; g < x.sums().cols(); ++g) x.sums()(t, g) = 0;
    for (int c = 0; c < x.codes().cols(); ++c) {
      const std::uint32_t kind = random.below(4);
      const int code = c >= cols ? 0 : kind == 0 ? 127 : kind == 1 ? -127 : static_cast<int>(random.below(255)) - 127;
      x.codes()(t, c) = static_cast<std::int8_t>(code);
      x.sums()(t, c / group) += code;
    }
    for (int g = 0; g < x.scales().cols(); ++g) x.scales()(t, g) = static_cast<float>(0.01 + random.uniform());
  }
  return x;
}
