// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// With which functions does the tuner compute? In float with the dispatched kernels of ops/ and
// kernel/, in double with their specifications and plain products, to prove that gradients are
// right. Bit-identical for any number of threads.

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/gradient.hpp>
#include <bisup/kernel/scalar_vector.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/row_tasks.hpp>

namespace bisup::tune {

template <class T>
inline constexpr bool dispatched = std::is_same_v<T, float>;

// C = A B^T, A B, A^T B in double: one sum an element, in the order of the summed index, whatever
// floats would be multiplied in.
inline void multiply_transposed(MatrixRef<const double> a, MatrixRef<const double> b,
                                MatrixRef<double> c, Into into, ThreadPool&,
                                Products = Products::floats) {
  BISUP_EXPECTS(a.cols() == b.cols() && c.rows() == a.rows() && c.cols() == b.rows());
  for (int i = 0; i < c.rows(); ++i) {
    for (int j = 0; j < c.cols(); ++j) {
      double sum = into == Into::add ? c(i, j) : 0;
      for (int k = 0; k < a.cols(); ++k) sum += a(i, k) * b(j, k);
      c(i, j) = sum;
    }
  }
}
inline void multiply(MatrixRef<const double> a, MatrixRef<const double> b, MatrixRef<double> c,
                     Into into, ThreadPool&, Products = Products::floats) {
  BISUP_EXPECTS(a.cols() == b.rows() && c.rows() == a.rows() && c.cols() == b.cols());
  for (int i = 0; i < c.rows(); ++i) {
    for (int j = 0; j < c.cols(); ++j) {
      double sum = into == Into::add ? c(i, j) : 0;
      for (int k = 0; k < a.cols(); ++k) sum += a(i, k) * b(k, j);
      c(i, j) = sum;
    }
  }
}
inline void transposed_multiply(MatrixRef<const double> a, MatrixRef<const double> b,
                                MatrixRef<double> c, Into into, ThreadPool&,
                                Products = Products::floats) {
  BISUP_EXPECTS(a.rows() == b.rows() && c.rows() == a.cols() && c.cols() == b.cols());
  for (int i = 0; i < c.rows(); ++i) {
    for (int j = 0; j < c.cols(); ++j) {
      double sum = into == Into::add ? c(i, j) : 0;
      for (int k = 0; k < a.rows(); ++k) sum += a(k, i) * b(k, j);
      c(i, j) = sum;
    }
  }
}
using bisup::multiply;
using bisup::multiply_transposed;
using bisup::transposed_multiply;

// The forward operations on rows, by scalar type.
template <class T>
struct RowKernels {
  void (*rms_norm)(const T* x, const T* weight, int count, T eps, T* y) noexcept;
  void (*rope)(T* x, int heads, int half, const T* cosines, const T* sines) noexcept;
  void (*add)(const T* x, int count, T* y) noexcept;
  void (*swiglu)(const T* gate, const T* up, int count, T* y) noexcept;
  void (*softmax)(T* x, int count) noexcept;
  void (*hadamard)(T* x, int n, T scale) noexcept;
};

template <class T>
[[nodiscard]] RowKernels<T> row_kernels() {
  if constexpr (dispatched<T>) {
    const VectorKernels& k = vector_kernels();
    return {k.rms_norm, k.rope, k.add, k.swiglu, k.softmax, k.hadamard};
  } else {
    return {scalar::rms_norm<T>, scalar::rope<T>,    scalar::add<T>,
            scalar::swiglu<T>,   scalar::softmax<T>, scalar::hadamard<T>};
  }
}

// y += x, matrices of one shape.
template <class T>
void add(MatrixRef<const T> x, MatrixRef<T> y, ThreadPool& pool) {
  BISUP_EXPECTS(x.rows() == y.rows() && x.cols() == y.cols());
  const auto kernel = row_kernels<T>().add;
  detail::over_rows(x.rows(), x.cols(), pool,
                    [&](int r) { kernel(x.row_data(r), x.cols(), y.row_data(r)); });
}

// Calls body(first column, columns) for blocks of columns: sums over tokens are split by column, so
// that every sum runs over all tokens in order.
template <class Body>
void over_columns(int cols, ThreadPool& pool, Body&& body) {
  constexpr int block = 64;
  pool.parallel_for((cols + block - 1) / block, [&](int task, int) {
    body(task * block, std::min(block, cols - task * block));
  });
}

// sums[c] += sum over rows r of weights[r] a[r, c] b[r, c]; without weights every one is 1.
template <class T>
void add_column_products(MatrixRef<const T> a, MatrixRef<const T> b, std::span<const T> weights,
                         std::span<T> sums, ThreadPool& pool) {
  BISUP_EXPECTS(a.rows() == b.rows() && a.cols() == b.cols() &&
                static_cast<int>(sums.size()) == a.cols());
  BISUP_EXPECTS(weights.empty() || static_cast<int>(weights.size()) == a.rows());
  const auto kernel = gradient_kernels<T>().add_product;
  over_columns(a.cols(), pool, [&](int first, int count) {
    for (int r = 0; r < a.rows(); ++r) {
      kernel(a.row_data(r) + first, b.row_data(r) + first, count,
             weights.empty() ? T(1) : weights[static_cast<std::size_t>(r)], sums.data() + first);
    }
  });
}

// y = x / sqrt(mean(x^2) + eps) * weight, row by row.
template <class T>
void rms_norm(MatrixRef<const T> x, std::span<const T> weight, T eps, MatrixRef<T> y,
              ThreadPool& pool) {
  BISUP_EXPECTS(x.rows() == y.rows() && x.cols() == y.cols() &&
                static_cast<int>(weight.size()) == x.cols());
  const auto kernel = row_kernels<T>().rms_norm;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int r) {
    kernel(x.row_data(r), weight.data(), x.cols(), eps, y.row_data(r));
  });
}

// dx from dy (dx may be dy); adds to dweight, unless it is empty.
template <class T>
void rms_norm_gradient(MatrixRef<const T> x, std::span<const T> weight, T eps,
                       MatrixRef<const T> dy, MatrixRef<T> dx, std::span<T> dweight,
                       std::vector<T>& inverse_roots, ThreadPool& pool) {
  BISUP_EXPECTS(x.rows() == dx.rows() && x.cols() == dx.cols());
  const auto kernel = gradient_kernels<T>().rms_norm_gradient;
  inverse_roots.resize(static_cast<std::size_t>(x.rows()));
  if (!dweight.empty()) {  // first, for dx may be dy
    detail::over_rows(x.rows(), x.cols(), pool, [&](int r) {
      const T squares = gradient_kernels<T>().dot(x.row_data(r), x.row_data(r), x.cols());
      inverse_roots[static_cast<std::size_t>(r)] =
          1 / std::sqrt(squares / static_cast<T>(x.cols()) + eps);
    });
    add_column_products<T>(x, dy, inverse_roots, dweight, pool);
  }
  detail::over_rows(x.rows(), x.cols(), pool, [&](int r) {
    kernel(x.row_data(r), weight.data(), dy.row_data(r), x.cols(), eps, dx.row_data(r));
  });
}

// Every head of every row turns by the angles of its token; see ops/rope.hpp.
template <class T>
void rope(MatrixRef<T> x, MatrixRef<const T> cosines, MatrixRef<const T> sines, ThreadPool& pool) {
  const int half = cosines.cols();
  BISUP_EXPECTS(cosines.rows() == x.rows() && sines.rows() == x.rows() && sines.cols() == half);
  BISUP_EXPECTS(half > 0 && x.cols() % (2 * half) == 0);
  const auto kernel = row_kernels<T>().rope;
  detail::over_rows(x.rows(), x.cols(), pool, [&](int r) {
    kernel(x.row_data(r), x.cols() / (2 * half), half, cosines.row_data(r), sines.row_data(r));
  });
}

// The logistic function: what turns a learned number into a clip in (0, 1). Of infinity it is 1.
template <class T>
[[nodiscard]] T logistic(T x) {
  return 1 / (1 + std::exp(-x));
}
// Its inverse: of 1 infinity, a clip that nothing learns.
template <class T>
[[nodiscard]] T logit(T share) {
  return std::log(share / (1 - share));
}

}  // namespace bisup::tune
