// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a float tensor of a model stay alive? A view of its values together with whatever owns
// them: the mapped file, or a buffer that was filled on request.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup::llama {

struct DenseTensor {
  DenseView view;  // [rows, cols]; of a vector [1, cols]
  std::shared_ptr<const void> owner = {};

  [[nodiscard]] int rows() const noexcept { return view.rows; }
  [[nodiscard]] int cols() const noexcept { return view.cols; }
};

// Gives a matrix away to a tensor.
[[nodiscard]] inline DenseTensor dense_tensor(Matrix<float> values) {
  const auto owner = std::make_shared<const Matrix<float>>(std::move(values));
  return {{owner->data(), DType::f32, owner->rows(), owner->cols()}, owner};
}

// The values as floats: [rows, cols].
[[nodiscard]] inline Matrix<float> as_matrix(const DenseView& view) {
  Matrix<float> values(view.rows, view.cols);
  for (int r = 0; r < view.rows; ++r) {
    const std::byte* row = view.row_data(r);
    for (int c = 0; c < view.cols; ++c) {
      switch (view.type) {
        case DType::f32: values(r, c) = reinterpret_cast<const float*>(row)[c]; break;
        case DType::f16: values(r, c) = to_float(reinterpret_cast<const Half*>(row)[c]); break;
        case DType::bf16: values(r, c) = to_float(reinterpret_cast<const BFloat16*>(row)[c]); break;
        case DType::i8: values(r, c) = reinterpret_cast<const std::int8_t*>(row)[c]; break;
      }
    }
  }
  return values;
}

// The tensor in half precision after change(rows) has had each part of it as floats, [rows, cols]:
// a second copy of a large embedding never exists in floats. Values beyond 65504 are held there,
// where they would become infinite.
template <class Change>
[[nodiscard]] DenseTensor as_half(const DenseTensor& tensor, Change&& change) {
  constexpr int part_rows = 1024;
  const DenseView& view = tensor.view;
  auto halves = std::make_shared<std::vector<Half>>();
  halves->reserve(static_cast<std::size_t>(view.rows) * static_cast<std::size_t>(view.cols));
  for (int first = 0; first < view.rows; first += part_rows) {
    Matrix<float> part = as_matrix(
        {view.row_data(first), view.type, std::min(part_rows, view.rows - first), view.cols});
    change(part.ref());
    for (int r = 0; r < part.rows(); ++r) {
      for (const float x : part.row(r))
        halves->push_back(to_half(std::isnan(x) ? x : std::clamp(x, -65504.0f, 65504.0f)));
    }
  }
  return {{halves->data(), DType::f16, view.rows, view.cols}, halves};
}

// The same tensor in half precision; itself if it is that already.
[[nodiscard]] inline DenseTensor as_half(const DenseTensor& tensor) {
  if (tensor.view.type == DType::f16) return tensor;
  return as_half(tensor, [](MatrixRef<float>) {});
}

}  // namespace bisup::llama
