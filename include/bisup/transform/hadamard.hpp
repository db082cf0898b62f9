// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are values rotated by a Hadamard matrix of any order that exists? T(x) = x H^T / sqrt(order)
// along one axis, in place: (a Paley matrix) (x) (a Walsh-Hadamard matrix) costs order / 4 or fewer
// additions a value. In double to prove that a transform is exact, in float also offline on every
// row of the weights and online on activations. hadamard_matrix.hpp says which orders exist.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/transform/hadamard_matrix.hpp>

namespace bisup {

// x is [before, order, after] and is rotated along the middle axis. All of d_ff: {1, n, 1}; blocks
// of b: {n / b, b, 1}; within heads: {heads, head_dim, 1}; across heads: {1, heads, head_dim}.
struct HadamardAxis {
  int before = 1, order = 1, after = 1;
  friend constexpr bool operator==(const HadamardAxis&, const HadamardAxis&) = default;
  [[nodiscard]] constexpr int size() const noexcept { return before * order * after; }
};

// All of n, or, where no matrix of that order is known, blocks of the largest power of two that
// divides n: 107 blocks of 128 for 13696.
[[nodiscard]] constexpr HadamardAxis widest_hadamard(int n) {
  if (hadamard_order_exists(n)) return {1, n, 1};
  const int block = 1 << std::countr_zero(static_cast<unsigned>(n));
  return {n / block, block, 1};
}

// The identity where no matrix has the number of heads as its order: 9, 14, 15.
[[nodiscard]] constexpr HadamardAxis across_heads(int heads, int head_dim) {
  if (hadamard_order_exists(heads)) return {1, heads, head_dim};
  return {1, 1, heads * head_dim};
}

class Hadamard {
 public:
  Hadamard() = default;  // the identity of one value

  // An error names the order that does not exist.
  [[nodiscard]] static Result<Hadamard> make(HadamardAxis axis) {
    const auto [before, order, after] = axis;
    const auto factors = hadamard_factors(order);
    if (!factors) {
      return Error{Errc::unsupported,
                   "no Hadamard matrix of order " + std::to_string(order) + " is known here"};
    }
    if (before < 1 || after < 1 || std::int64_t{before} * order > std::numeric_limits<int>::max() ||
        std::int64_t{before} * order * after > std::numeric_limits<int>::max()) {
      return Error{Errc::out_of_range, "a Hadamard axis [" + std::to_string(before) + ", " +
                                           std::to_string(order) + ", " + std::to_string(after) +
                                           "]"};
    }
    Hadamard made;
    made.axis_ = axis, made.factors_ = *factors;
    if (factors->signs > 1) made.signs_ = std::make_shared<const Signs>(factors->signs);
    return made;
  }

  [[nodiscard]] const HadamardAxis& axis() const noexcept { return axis_; }
  [[nodiscard]] int size() const noexcept { return axis_.size(); }
  friend bool operator==(const Hadamard& a, const Hadamard& b) { return a.axis_ == b.axis_; }

  // Requires x.size() == size(). T is float or double.
  template <class T>
  void apply(std::span<T> x) const {
    rotate_one(x, Direction::forward);
  }
  template <class T>
  void apply_inverse(std::span<T> x) const {
    rotate_one(x, Direction::inverse);
  }
  // Every row. Requires rows.cols() == size(). Bit-identical for any number of threads.
  template <class T>
  void apply(MatrixRef<T> rows, ThreadPool& pool) const {
    rotate_rows(rows, Direction::forward, pool);
  }
  template <class T>
  void apply_inverse(MatrixRef<T> rows, ThreadPool& pool) const {
    rotate_rows(rows, Direction::inverse, pool);
  }

 private:
  // The Paley matrix and its transpose as kernels read them: kernel/scalar_vector.hpp.
  struct Signs {
    explicit Signs(int k) {
      const Matrix<std::int8_t> h = paley_matrix(k);
      for (int i = 0; i < k; ++i) {
        for (int j = 0; j < k; j += 4) {
          int row = 0, column = 0;
          for (int bit = 0; bit < 4; ++bit) {
            row |= (h(i, j + bit) < 0) << bit, column |= (h(j + bit, i) < 0) << bit;
          }
          forward.push_back(static_cast<std::uint8_t>(row));
          inverse.push_back(static_cast<std::uint8_t>(column));
        }
      }
    }
    std::vector<std::uint8_t> forward, inverse;
  };
  enum class Direction : std::uint8_t { forward, inverse };

  // Values of memory that kernels ask for beside x.
  [[nodiscard]] int scratch_size() const noexcept {
    return factors_.signs == 1 ? 0 : 32 * factors_.signs;
  }

  // x: [before, signs, butterflies, after]; the two factors commute.
  template <class T>
  void rotate(T* x, Direction direction, T* scratch) const {
    if (axis_.order == 1) return;
    const T scale = 1 / std::sqrt(static_cast<T>(axis_.order));
    const int k = factors_.signs, n = factors_.butterflies;
    for (int block = 0; block < axis_.before; ++block, x += axis_.order * axis_.after) {
      for (int i = 0; n > 1 && i < k; ++i) {
        walsh_hadamard(x + i * n * axis_.after, k == 1 ? scale : T{1});
      }
      if (k > 1) sign_product(x, direction, scale, scratch);
    }
  }

  template <class T>
  void walsh_hadamard(T* x, T scale) const {
    const int n = factors_.butterflies;
    if constexpr (!std::is_same_v<T, float>) {
      scalar::hadamard_runs(x, n, axis_.after, scale);
    } else if (axis_.after == 1) {
      vector_kernels().hadamard(x, n, scale);
    } else {
      vector_kernels().hadamard_runs(x, n, axis_.after, scale);
    }
  }

  template <class T>
  void sign_product(T* x, Direction direction, T scale, T* scratch) const {
    const auto& signs = direction == Direction::forward ? signs_->forward : signs_->inverse;
    const int width = factors_.butterflies * axis_.after;
    if constexpr (std::is_same_v<T, float>) {
      vector_kernels().sign_product(x, factors_.signs, signs.data(), width, scale, scratch);
    } else {
      scalar::sign_product(x, factors_.signs, signs.data(), width, scale, scratch);
    }
  }

  template <class T>
  void rotate_one(std::span<T> x, Direction direction) const {
    BISUP_EXPECTS(x.size() == static_cast<std::size_t>(size()));
    AlignedBuffer<T> scratch(static_cast<std::size_t>(scratch_size()));
    rotate(x.data(), direction, scratch.data());
  }

  template <class T>
  void rotate_rows(MatrixRef<T> rows, Direction direction, ThreadPool& pool) const {
    BISUP_EXPECTS(rows.cols() == size());
    const int block = std::max(1, (16 << 10) / size());  // rows a task: about 64 KiB
    pool.parallel_for((rows.rows() + block - 1) / block, [&](int task, int) {
      AlignedBuffer<T> scratch(static_cast<std::size_t>(scratch_size()));
      const int last = std::min(rows.rows(), (task + 1) * block);
      for (int row = task * block; row < last; ++row) {
        rotate(rows.row_data(row), direction, scratch.data());
      }
    });
  }

  HadamardAxis axis_;
  HadamardFactors factors_;
  std::shared_ptr<const Signs> signs_;  // where factors_.signs > 1
};

}  // namespace bisup
