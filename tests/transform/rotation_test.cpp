// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/transform/random_signs.hpp>
#include <bisup/transform/rotation.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

template <class T>
Matrix<T> normals(int rows, int cols) {
  Random random(11);
  Matrix<T> m(rows, cols);
  for (int i = 0; i < rows * cols; ++i) m.data()[i] = static_cast<T>(random.normal());
  return m;
}

template <class T>
double length(std::span<const T> x) {
  double squares = 0;
  for (const T v : x) squares += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(squares);
}

// depth: additions and products on the way of a value; each errs by at most one rounding of the sum
// of magnitudes, which is at most `spread` times the length.
template <class T, Rotation R>
void check_laws(const R& rotation, double depth, double spread) {
  const auto m = normals<T>(1, rotation.size());
  const auto x = m.row(0);
  std::vector<T> y(x.begin(), x.end());
  rotation.apply(std::span(y));
  const double bound = depth * spread * 0.5 *
                       static_cast<double>(std::numeric_limits<T>::epsilon()) * 1.001 * length(x);
  // The measurement in double errs itself.
  const double measured = 4 * rotation.size() * 0x1p-53 * length(x);
  CHECK(std::fabs(length(std::span<const T>(y)) - length(x)) <= bound + measured);
  rotation.apply_inverse(std::span(y));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] -= x[i];
  CHECK(length(std::span<const T>(y)) <= 2 * bound);
}

template <Rotation R>
void check_laws_of_hadamard(const R& rotation, int order) {
  const auto [signs, butterflies] = *hadamard_factors(order);
  // The butterflies of one step are orthogonal up to a factor; only the sums of the sign matrix
  // have magnitudes above the length, by the root of their number.
  const double depth = std::log2(butterflies) * std::sqrt(2) + signs / 4.0 + 2 + 4;
  check_laws<float>(rotation, depth, std::sqrt(signs));
  check_laws<double>(rotation, depth, std::sqrt(signs));
}

TEST_CASE("every rotation keeps lengths and has an inverse") {
  check_laws<float>(Identity{17}, 0, 0);
  check_laws<double>(Identity{17}, 0, 0);
  check_laws<float>(RandomSigns{100, 1}, 0, 0);
  check_laws<double>(RandomSigns{100, 1}, 0, 0);
  for (const HadamardAxis& axis :
       {HadamardAxis{1, 1024, 1}, HadamardAxis{1, 576, 1}, HadamardAxis{3, 64, 1},
        HadamardAxis{1, 20, 16}, HadamardAxis{1, 344 * 4, 1}, HadamardAxis{2, 36, 3}}) {
    CAPTURE(axis.before, axis.order, axis.after);
    check_laws_of_hadamard(Hadamard::make(axis).value(), axis.order);
    check_laws_of_hadamard(RandomizedHadamard::make(axis, 5).value(), axis.order);
  }
}

TEST_CASE("the identity changes no bit") {
  const auto before = normals<float>(3, 7);
  auto m = before.clone();
  ThreadPool pool(1);
  rotate_rows(m.ref(), Identity{7}, pool);
  rotate_columns(m.ref(), Identity{3}, pool);
  for (int r = 0; r < 3; ++r)
    CHECK(std::equal(m.row(r).begin(), m.row(r).end(), before.row(r).begin()));
  std::vector<double> x(3);
  CHECK_THROWS_AS(Identity{2}.apply(std::span(x)), ContractViolation);
}

TEST_CASE("columns are rotated as rows of the transpose") {
  ThreadPool pool(2);
  const auto rotation = RandomizedHadamard::make({1, 12, 1}, 9).value();
  auto rows = normals<double>(5, 12);
  Matrix<double> columns(12, 5);
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 12; ++c) columns(c, r) = rows(r, c);
  }
  rotate_rows(rows.ref(), rotation, pool);
  rotate_columns(columns.ref(), rotation, pool);
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 12; ++c) REQUIRE(columns(c, r) == rows(r, c));
  }
  CHECK_THROWS_AS(rotate_rows(columns.ref(), rotation, pool), ContractViolation);
  CHECK_THROWS_AS(rotate_columns(rows.ref(), rotation, pool), ContractViolation);
}

}  // namespace
