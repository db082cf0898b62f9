// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which rotation makes the outliers of a residual stream vanish? Q = D H: a seeded diagonal of
// signs, then a Hadamard matrix, so that no direction of the model is one of the matrix's own.

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/random.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/transform/hadamard.hpp>
#include <bisup/transform/rotation.hpp>

namespace bisup {

// x_i = x_i or -x_i; its own inverse. Sign i is bit i of the generator's stream.
struct RandomSigns {
  int values = 1;
  std::uint64_t seed = 0;
  friend constexpr bool operator==(const RandomSigns&, const RandomSigns&) = default;
  [[nodiscard]] constexpr int size() const noexcept { return values; }

  template <class T>
  void apply(std::span<T> x) const {
    BISUP_EXPECTS(x.size() == static_cast<std::size_t>(values));
    Random random(seed);
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < x.size(); ++i, bits >>= 1) {
      if (i % 32 == 0) bits = random.bits();
      if (bits & 1) x[i] = -x[i];
    }
  }
  template <class T>
  void apply_inverse(std::span<T> x) const {
    apply(x);
  }
};

// x = (x D) H^T / sqrt(order).
class RandomizedHadamard {
 public:
  RandomizedHadamard() = default;
  [[nodiscard]] static Result<RandomizedHadamard> make(HadamardAxis axis, std::uint64_t seed) {
    auto hadamard = Hadamard::make(axis);
    if (!hadamard) return hadamard.error();
    RandomizedHadamard made;
    made.signs_ = {axis.size(), seed}, made.hadamard_ = std::move(*hadamard);
    return made;
  }

  [[nodiscard]] int size() const noexcept { return hadamard_.size(); }
  [[nodiscard]] const HadamardAxis& axis() const noexcept { return hadamard_.axis(); }
  [[nodiscard]] std::uint64_t seed() const noexcept { return signs_.seed; }
  friend bool operator==(const RandomizedHadamard&, const RandomizedHadamard&) = default;

  template <class T>
  void apply(std::span<T> x) const {
    signs_.apply(x), hadamard_.apply(x);
  }
  template <class T>
  void apply_inverse(std::span<T> x) const {
    hadamard_.apply_inverse(x), signs_.apply_inverse(x);
  }
  template <class T>
  void apply(MatrixRef<T> rows, ThreadPool& pool) const {
    rotate_rows(rows, signs_, pool), hadamard_.apply(rows, pool);
  }
  template <class T>
  void apply_inverse(MatrixRef<T> rows, ThreadPool& pool) const {
    hadamard_.apply_inverse(rows, pool), rotate_rows(rows, signs_, pool);
  }

 private:
  RandomSigns signs_;
  Hadamard hadamard_;
};

static_assert(Rotation<Identity> && Rotation<RandomSigns> && Rotation<Hadamard> &&
              Rotation<RandomizedHadamard>);

}  // namespace bisup
