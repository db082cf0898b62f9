// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/transform/hadamard.hpp>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

template <class T>
std::vector<T> normals(int count, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& v : values) v = static_cast<T>(random.normal());
  return values;
}

// Half of the distance between 1 and the next number.
template <class T>
constexpr double rounding = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());

// Additions on the way of a value: a butterfly each, then in fours; and 1 / sqrt(n), its two
// roundings and its product, counted as four.
int depth(int order) {
  const auto [signs, butterflies] = *hadamard_factors(order);
  return std::countr_zero(static_cast<unsigned>(butterflies)) + (signs > 1 ? 2 + signs / 4 : 0) + 4;
}

// sqrt(order) times the entry of the matrix that is applied: Paley (x) Walsh-Hadamard.
class Dense {
 public:
  explicit Dense(int order) : factors_(*hadamard_factors(order)) {
    if (factors_.signs > 1) paley_ = paley_matrix(factors_.signs);
  }
  int operator()(int i, int j) const {
    const int n = factors_.butterflies;
    const int sign = std::popcount(static_cast<unsigned>((i % n) & (j % n))) % 2 ? -1 : 1;
    return factors_.signs == 1 ? sign : sign * paley_(i / n, j / n);
  }

 private:
  HadamardFactors factors_;
  Matrix<std::int8_t> paley_;
};

template <class T>
void check_against_dense(const HadamardAxis& axis) {
  CAPTURE(axis.before, axis.order, axis.after, sizeof(T));
  const auto hadamard = Hadamard::make(axis);
  REQUIRE(hadamard);
  REQUIRE(hadamard->size() == axis.size());
  const Dense dense(axis.order);
  const auto x = normals<T>(axis.size(), 7);
  for (const bool inverse : {false, true}) {
    auto y = x;
    inverse ? hadamard->apply_inverse(std::span(y)) : hadamard->apply(std::span(y));
    for (int b = 0; b < axis.before; ++b) {
      for (int a = 0; a < axis.after; ++a) {
        const auto at = [&](int i) {
          return static_cast<std::size_t>((b * axis.order + i) * axis.after + a);
        };
        double magnitude = 0;
        for (int j = 0; j < axis.order; ++j) magnitude += std::fabs(static_cast<double>(x[at(j)]));
        for (int i = 0; i < axis.order; ++i) {
          double exact = 0;  // (x H^T)_i, or (x H)_i
          for (int j = 0; j < axis.order; ++j) {
            exact += (inverse ? dense(j, i) : dense(i, j)) * static_cast<double>(x[at(j)]);
          }
          const double root = std::sqrt(static_cast<double>(axis.order));
          // The double sum here errs too, by less than order roundings.
          const double bound = depth(axis.order) * 1.001 * rounding<T> + axis.order * 0x1p-53;
          REQUIRE(std::fabs(static_cast<double>(y[at(i)]) - exact / root) <=
                  bound * magnitude / root);
        }
      }
    }
  }
}

TEST_CASE("the transform is the dense matrix, along any axis, in float and double") {
  for (const HadamardAxis& axis : std::vector<HadamardAxis>{{1, 1, 5},
                                                            {1, 2, 1},
                                                            {3, 4, 1},
                                                            {1, 64, 3},
                                                            {2, 8, 16},
                                                            {1, 12, 1},
                                                            {1, 12, 20},
                                                            {2, 20, 5},
                                                            {1, 28, 64},
                                                            {1, 36 * 16, 1},
                                                            {2, 40, 3},
                                                            {1, 52, 1},
                                                            {1, 60 * 16, 1},
                                                            {1, 76 * 4, 2},
                                                            {1, 108, 4},
                                                            {1, 148 * 2, 1},
                                                            {1, 12 * 128, 1}}) {
    check_against_dense<float>(axis);
    check_against_dense<double>(axis);
  }
  check_against_dense<float>({1, 344 * 4, 1});
  check_against_dense<double>({1, 312, 3});
}

TEST_CASE("all rows of a view are rotated as one row is, whatever the threads") {
  ThreadPool one(1), three(3);
  for (const HadamardAxis& axis : {HadamardAxis{1, 1536, 1}, HadamardAxis{1, 20, 64},
                                   HadamardAxis{4, 64, 1}, HadamardAxis{1, 1, 7}}) {
    const auto hadamard = Hadamard::make(axis);
    REQUIRE(hadamard);
    for (ThreadPool* pool : {&one, &three}) {
      Matrix<float> store(41, axis.size() + 9);
      const auto values = normals<float>(store.rows() * store.cols(), 3);
      std::copy(values.begin(), values.end(), store.data());
      auto expected = store.clone();
      const auto view = store.ref().rows(1, 39).cols(5, axis.size());
      hadamard->apply(view, *pool);
      for (int r = 1; r < 40; ++r) {
        hadamard->apply(expected.row(r).subspan(5, static_cast<std::size_t>(axis.size())));
      }
      for (int r = 0; r < store.rows(); ++r) {
        REQUIRE(std::equal(store.row(r).begin(), store.row(r).end(), expected.row(r).begin()));
      }
      hadamard->apply_inverse(view, *pool);
      for (int r = 1; r < 40; ++r) {
        hadamard->apply_inverse(expected.row(r).subspan(5, static_cast<std::size_t>(axis.size())));
      }
      for (int r = 0; r < store.rows(); ++r) {
        REQUIRE(std::equal(store.row(r).begin(), store.row(r).end(), expected.row(r).begin()));
      }
    }
  }
}

TEST_CASE("an order that does not exist is named") {
  for (const int order : {0, -8, 14, 13696, 27392}) {
    const auto made = Hadamard::make({1, order, 1});
    REQUIRE_FALSE(made);
    CHECK(made.error().code == Errc::unsupported);
    CHECK(made.error().message.find(std::to_string(order)) != std::string::npos);
  }
  for (const HadamardAxis& axis :
       {HadamardAxis{0, 4, 1}, HadamardAxis{1, 4, -1}, HadamardAxis{1 << 20, 1 << 20, 1},
        HadamardAxis{1, 4, 1 << 30}}) {
    const auto made = Hadamard::make(axis);
    REQUIRE_FALSE(made);
    CHECK(made.error().code == Errc::out_of_range);
  }
}

TEST_CASE("the axes of models") {
  CHECK(widest_hadamard(1536) == HadamardAxis{1, 1536, 1});
  CHECK(widest_hadamard(13696) == HadamardAxis{107, 128, 1});
  CHECK(widest_hadamard(27392) == HadamardAxis{107, 256, 1});
  CHECK(widest_hadamard(7) == HadamardAxis{7, 1, 1});
  CHECK(across_heads(32, 128) == HadamardAxis{1, 32, 128});
  CHECK(across_heads(28, 128) == HadamardAxis{1, 28, 128});
  for (const int heads : {9, 14, 15})
    CHECK(across_heads(heads, 64) == HadamardAxis{1, 1, heads * 64});
  CHECK(Hadamard::make({1, 12, 1}).value() == Hadamard::make({1, 12, 1}).value());
  CHECK_FALSE(Hadamard::make({1, 12, 1}).value() == Hadamard::make({1, 1, 12}).value());
  CHECK(Hadamard() == Hadamard::make({1, 1, 1}).value());
}

TEST_CASE("rows of another length are refused") {
  const auto hadamard = Hadamard::make({1, 12, 2}).value();
  std::vector<float> x(23);
  CHECK_THROWS_AS(hadamard.apply(std::span(x)), ContractViolation);
  Matrix<double> rows(2, 25);
  ThreadPool pool(1);
  CHECK_THROWS_AS(hadamard.apply_inverse(rows.ref(), pool), ContractViolation);
}

}  // namespace
