// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the benchmarks of packed products multiply? Random codes with scales near 0.01, in one or
// more copies so that they come from memory, and a check of a few outputs against scalar.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/gemm.hpp>
#include <bisup/ops/quantize_activation.hpp>
#include <bisup/pack/packed_tensor.hpp>

namespace bisup::bench {

class PackedCopies {
 public:
  PackedCopies(const Format& format, int rows, int cols, std::size_t at_least_bytes) {
    const PackedShape shape{format, rows, cols};
    Random random(1);
    for (std::size_t bytes = 0; bytes == 0 || bytes < at_least_bytes; bytes += shape.bytes()) {
      PackedBuffer buffer = PackedBuffer::allocate(shape).value();
      for (std::size_t i = 0; i < shape.code_bytes(); ++i) buffer.codes()[i] = static_cast<std::uint8_t>(random.bits());
      for (std::size_t i = 0; i < shape.scale_count(); ++i) {
        static_cast<Half*>(buffer.scales())[i] = to_half(0.01f + 0.001f * static_cast<float>(random.uniform()));
        if (format.affine()) buffer.zeros()[i] = static_cast<std::uint8_t>(1 << (format.bits - 1));
      }
      panels_.push_back({buffer.codes(), buffer.scales(), buffer.zeros(), shape});
      buffers_.push_back(std::move(buffer));
    }
  }
  [[nodiscard]] std::size_t count() const { return panels_.size(); }
  [[nodiscard]] const PackedPanels& operator[](std::size_t copy) const { return panels_[copy % panels_.size()]; }

 private:
  std::vector<PackedBuffer> buffers_;
  std::vector<PackedPanels> panels_;
};

inline QuantizedActivation normal_activation(const ActivationFormat& format, int tokens, int cols) {
  Matrix<float> x(tokens, cols);
  Random random(2);
  for (int i = 0; i < tokens * cols; ++i) x.data()[i] = static_cast<float>(random.normal());
  QuantizedActivation out;
  ThreadPool pool(1);
  quantize_activation(x.ref(), format, out, pool);
  return out;
}

// The last token's first and last panels against scalar. Scalar rounds each group's product and sum
// separately; the kernels fuse them: (groups + 3) roundings each of at most the sum of |terms|.
inline bool agrees(const PackedPanels& w, const ActivationView& x, MatrixRef<const float> y) {
  const PackedShape& shape = w.shape;
  const int token = x.tokens - 1, last = shape.row_tiles() - 1;
  Matrix<float> expected(x.tokens, shape.rows);
  for (const int panel : {0, last}) {
    with_bits(shape.format.bits, [&]<int Bits>() {
      scalar::gemm<Bits>(w, x, expected.ref(), {panel, panel + 1, token, token + 1});
    });
    for (int r = panel * 16; r < std::min(panel * 16 + 16, shape.rows); ++r) {
      double magnitude = 0;
      for (int g = 0; g < shape.groups(); ++g) {
        const double largest = 127.0 * (1 << shape.format.bits) * std::min(shape.group_codes(), shape.cols);
        magnitude += static_cast<double>(w.scale(r, g)) * x.scale(token, g) * largest;
      }
      const double error = std::fabs(static_cast<double>(y(token, r)) - expected(token, r));
      if (!(error <= 2.0 * (shape.groups() + 3) * 0x1p-24 * magnitude)) return false;
    }
  }
  return true;
}

inline std::string describe(const Format& format) {
  return "int" + std::to_string(format.bits) + (format.affine() ? "_affine" : "") +
         (format.group == 0 ? "_channel" : "_g" + std::to_string(format.group));
}

}  // namespace bisup::bench
