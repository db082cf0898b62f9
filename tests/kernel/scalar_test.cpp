// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <cmath>

#include <bisup_test.hpp>

using namespace bisup;

namespace {

// Affine 3-bit codes in two groups, and what they stand for by the definition, in double.
struct Weights {
  PackedTensor<int3_g64> tensor = PackedTensor<int3_g64>::allocate(18, 96).value();
  PackedPanels panels;
  Weights() {
    Random random(1);
    const PackedShape& shape = tensor.shape();
    for (std::size_t i = 0; i < shape.code_bytes(); ++i) tensor.buffer().codes()[i] = static_cast<std::uint8_t>(random.bits());
    for (std::size_t i = 0; i < shape.scale_count(); ++i) {
      static_cast<Half*>(tensor.buffer().scales())[i] = to_half(static_cast<float>(random.uniform()));
    }
    panels = tensor.view();
  }
  [[nodiscard]] double at(int r, int c) const {
    return static_cast<double>(panels.scale(r, c / 64)) * (tensor.view().code(r, c) - 4);
  }
};

}  // namespace

TEST_CASE("the scalar product is the sum of what the codes stand for") {
  const Weights w;
  Matrix<float> x(3, 96), y(3, 18), direct(3, 18);
  Random random(2);
  for (int t = 0; t < 3; ++t) {
    for (float& v : x.row(t)) v = static_cast<float>(random.normal());
  }
  QuantizedActivation a;
  a.resize({.group = 64}, 3, 96);
  scalar::quantize_activation(x.ref(), a.format(), a.codes(), a.scales(), a.sums(), 0, 3);
  scalar::gemm<3>(w.panels, a.view(), y.ref(), {0, 2, 0, 3});
  scalar::weight_only<3>(w.panels, x.ref(), direct.ref(), {0, 2, 0, 3});
  for (int t = 0; t < 3; ++t) {
    for (int r = 0; r < 18; ++r) {
      double sum = 0, rounded = 0, terms = 0;
      for (int c = 0; c < 96; ++c) {
        sum += w.at(r, c) * x(t, c), terms += std::fabs(w.at(r, c) * x(t, c));
        rounded += w.at(r, c) * a.view().scale(t, c / 64) * a.codes()(t, c);
      }
      // Two groups: two scale products, two products with integers, two sums, each 2^-24 of at most
      // the sum of magnitudes, which rounding x to 8 bits at most doubles.
      REQUIRE(std::fabs(y(t, r) - rounded) <= 6 * 0x1p-24 * 2 * terms);
      // 96 weights, products and sums, each rounded once.
      REQUIRE(std::fabs(direct(t, r) - sum) <= (96 + 2) * 0x1p-24 * 1.001 * terms);
    }
  }
}

TEST_CASE("a range is all that a scalar product writes") {
  const Weights w;
  Matrix<float> x(3, 96), y(3, 18);
  std::fill_n(x.data(), 3 * 96, 1.0f), std::fill_n(y.data(), 3 * 18, 12345.0f);
  QuantizedActivation a;
  a.resize({.group = 64, .token_scales = true}, 3, 96);
  scalar::quantize_activation(x.ref(), a.format(), a.codes(), a.scales(), a.sums(), 0, 3);
  scalar::gemm<3>(w.panels, a.view(), y.ref(), {1, 2, 1, 3});
  for (int t = 0; t < 3; ++t) {
    for (int r = 0; r < 18; ++r) REQUIRE((y(t, r) == 12345.0f) == (t < 1 || r < 16));
  }
}

TEST_CASE("rows are dequantized by the definition") {
  const Weights w;
  Matrix<float> out(5, 96);
  scalar::dequantize<3>(w.panels, 13, out.ref());
  for (int r = 0; r < 5; ++r) {
    // One product, whose exact value has at most 11 + 3 bits: no rounding at all.
    for (int c = 0; c < 96; ++c) REQUIRE(out(r, c) == w.at(13 + r, c));
  }
}
