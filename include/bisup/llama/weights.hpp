// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In what may a matrix of a model be stored? Dense in f32, f16 or bf16, or packed in few bits;
// either is multiplied by floats, packed ones by integers too. llama/linear.hpp makes layers of
// them.

#include <cstddef>
#include <variant>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/ops/dequantize.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/any_packed_tensor.hpp>

namespace bisup::llama {

using Weights = std::variant<DenseTensor, AnyPackedTensor>;

[[nodiscard]] inline const DenseTensor* dense(const Weights& w) noexcept {
  return std::get_if<DenseTensor>(&w);
}
[[nodiscard]] inline const AnyPackedTensor* packed(const Weights& w) noexcept {
  return std::get_if<AnyPackedTensor>(&w);
}
[[nodiscard]] inline int rows(const Weights& w) {
  return dense(w) != nullptr ? dense(w)->view.rows : packed(w)->rows();
}
[[nodiscard]] inline int cols(const Weights& w) {
  return dense(w) != nullptr ? dense(w)->view.cols : packed(w)->cols();
}
// All that is stored: what is read to apply it once.
[[nodiscard]] inline std::size_t bytes(const Weights& w) {
  return dense(w) != nullptr ? dense(w)->view.bytes() : packed(w)->bytes();
}

// y = x w^T, x in floats: [tokens, cols] to [tokens, rows].
inline void multiply(const Weights& w, MatrixRef<const float> x, MatrixRef<float> y,
                     ThreadPool& pool) {
  if (dense(w) != nullptr) {
    bisup::multiply(dense(w)->view, x, y, pool);
  } else {
    bisup::multiply(packed(w)->panels(), x, y, pool);
  }
}

// The values as floats: [rows, cols].
[[nodiscard]] inline Matrix<float> as_matrix(const Weights& w, ThreadPool& pool) {
  if (dense(w) != nullptr) return as_matrix(dense(w)->view);
  Matrix<float> values(rows(w), cols(w));
  dequantize(packed(w)->panels(), 0, values.ref(), pool);
  return values;
}

}  // namespace bisup::llama
