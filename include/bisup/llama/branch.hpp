// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What stands beside a rounded linear? A branch of low rank, y += (x A^T) B^T, which reads the
// input before it was rounded. Its factors are halves, or codes of 8 bits with one scale a
// component: twice the rank for the same bits.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/ops/combine_rows.hpp>
#include <bisup/ops/few_rows.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/narrow_panels.hpp>
#include <bisup/pack/word_rows.hpp>

namespace bisup::llama {

struct Branch {
  DenseTensor a;  // [rank, in]
  DenseTensor b;  // [rank, out], B^T in the formula; both by rank, so that no short rows are read
  std::vector<float> scale = {};  // [rank], of a product of two codes; empty where there are none

  [[nodiscard]] int rank() const noexcept { return b.rows(); }
  [[nodiscard]] int in() const noexcept { return a.cols(); }
  [[nodiscard]] int out() const noexcept { return b.cols(); }
  [[nodiscard]] DType type() const noexcept { return a.view.type; }
  [[nodiscard]] bool consistent() const noexcept {
    const bool codes = type() == DType::i8;
    return a.rows() == b.rows() && codes == (b.view.type == DType::i8) &&
           scale.size() == (codes ? static_cast<std::size_t>(rank()) : 0);
  }
  // All that is stored: what is read to apply it once.
  [[nodiscard]] std::size_t bytes() const {
    return a.view.bytes() + b.view.bytes() + scale.size() * sizeof(float);
  }
  // A and B^T as floats. Each has the root of a component's scale, so that both are of one size:
  // learned at one rate, a factor of codes beside a factor of their scales would be thrown about.
  [[nodiscard]] Matrix<float> a_values() const { return values(a); }
  [[nodiscard]] Matrix<float> b_values() const { return values(b); }

  // y += (x A^T) B^T: x [tokens, in] in floats, y [tokens, out].
  void apply(MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) const {
    static thread_local Matrix<float> inner;
    inner.resize(y.rows(), rank());
    multiply(a.view, x, inner.ref(), pool);  // [tokens, rank]
    if (!scale.empty()) {
      for (int t = 0; t < inner.rows(); ++t) {
        float* row = inner.row(t).data();
        for (int r = 0; r < rank(); ++r) row[r] *= scale[static_cast<std::size_t>(r)];
      }
    }
    combine_rows(b.view, std::as_const(inner).ref(), y, pool);
  }
  // Of codes, the same in integers: x A^T as words, which what beside() makes of B multiplies.
  void prepare(const WordsView& x, WordRows& words, ThreadPool& pool) const {
    BISUP_EXPECTS(!scale.empty());
    few_rows(a.view, scale.data(), x, words, pool);
  }
  [[nodiscard]] NarrowPanels beside() const {
    BISUP_EXPECTS(b.view.type == DType::i8);
    const auto* codes = static_cast<const std::int8_t*>(b.view.data);
    return NarrowPanels(out(), rank(), [&](int row, int component) {
      return codes[static_cast<std::ptrdiff_t>(component) * out() + row];
    });
  }

 private:
  [[nodiscard]] Matrix<float> values(const DenseTensor& factor) const {
    Matrix<float> values = as_matrix(factor.view);
    for (std::size_t r = 0; r < scale.size(); ++r) {
      const float root = std::sqrt(scale[r]);
      for (float& v : values.row(static_cast<int>(r))) v *= root;
    }
    return values;
  }
};

namespace detail {

// Each row as the nearest of the codes -127 to 127 times its largest magnitude / 127, by which its
// scale is multiplied. A row whose largest has no finite inverse is zero.
[[nodiscard]] inline DenseTensor as_codes(MatrixRef<const float> values,
                                          std::vector<float>& scale) {
  auto codes = std::make_shared<std::vector<std::int8_t>>();
  codes->reserve(static_cast<std::size_t>(values.rows()) * static_cast<std::size_t>(values.cols()));
  for (int r = 0; r < values.rows(); ++r) {
    float largest = 0;
    for (const float v : values.row(r)) largest = std::max(largest, std::fabs(v));
    if (!std::isfinite(127 / largest)) largest = 0;
    const float inverse = largest > 0 ? 127 / largest : 0;
    for (const float v : values.row(r))
      codes->push_back(static_cast<std::int8_t>(std::nearbyint(v * inverse)));
    scale[static_cast<std::size_t>(r)] *= largest / 127;
  }
  return {{codes->data(), DType::i8, values.rows(), values.cols()}, codes};
}

}  // namespace detail

// A branch of floats as it is stored: a [rank, in], b [rank, out], both finite, in f16 or i8. What
// f16 cannot hold becomes its largest number.
[[nodiscard]] inline Branch stored_branch(Matrix<float> a, Matrix<float> b, DType type) {
  BISUP_EXPECTS(a.rows() == b.rows() && (type == DType::f16 || type == DType::i8));
  if (type == DType::f16)
    return {as_half(dense_tensor(std::move(a))), as_half(dense_tensor(std::move(b)))};
  std::vector<float> scale(static_cast<std::size_t>(a.rows()), 1.0f);
  DenseTensor a_codes = detail::as_codes(std::as_const(a).ref(), scale);
  DenseTensor b_codes = detail::as_codes(std::as_const(b).ref(), scale);
  return {std::move(a_codes), std::move(b_codes), std::move(scale)};
}

// What one component of a branch takes, in bits.
[[nodiscard]] constexpr double component_bits(int in, int out, DType type) {
  return 8.0 * bytes_of(type) * (in + out) + (type == DType::i8 ? 32 : 0);
}

}  // namespace bisup::llama
