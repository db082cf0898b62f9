// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/dequantize.hpp>
#include <cmath>
#include <cstring>

#include <bisup_test.hpp>
#include <conformance/packed_problem.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

Matrix<float> dequantized(const PackedPanels& w) {
  Matrix<float> all(w.shape.rows, w.shape.cols);
  with_bits(w.shape.format.bits, [&]<int Bits>() { scalar::dequantize<Bits>(w, 0, all.ref()); });
  return all;
}

Matrix<float> random_rows(int tokens, int cols) {
  Matrix<float> x(tokens, cols);
  Random random(7);
  for (int t = 0; t < tokens; ++t) {
    for (float& v : x.row(t)) v = static_cast<float>(random.normal());
  }
  return x;
}

}  // namespace

TEST_CASE("rows are dequantized to the same bits on every target") {
  int n = 0;
  constexpr int row_counts[] = {1, 15, 17, 172}, col_counts[] = {32, 40, 172, 576};
  for (const int bits : widths) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (const int group : {0, 32, 128}) {
        for (int turn = 0; turn < 4; ++turn, ++n) {
          const Format format{bits, group, zero, static_cast<Scale>(n % 3)};
          const int rows = row_counts[turn], cols = col_counts[(n / 4 + turn) % 4];
          const PackedProblem w(format, rows, cols);
          const Matrix<float> expected = dequantized(w.panels);
          const int first = rows / 3, count = rows - first;
          for (const Target target : all_targets) {
            if (!runs_here(target)) continue;
            INFO(describe(format, rows, cols, 0) << ", " << name(target));
            Matrix<float> store(count, cols + 3);
            std::fill_n(store.data(), count * (cols + 3), 12345.0f);
            dequantize_kernel(format, target).function(w.panels, first, store.ref().cols(0, cols));
            for (int r = 0; r < count; ++r) {
              REQUIRE(std::memcmp(store.ref().row_data(r), expected.ref().row_data(first + r),
                                  sizeof(float) * static_cast<std::size_t>(cols)) == 0);
              REQUIRE(store(r, cols) == 12345.0f);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a weight-only product agrees with scalar on every target") {
  int n = 0;
  constexpr int row_counts[] = {1, 15, 17, 100}, col_counts[] = {32, 64, 96, 576},
                token_counts[] = {1, 2, 3, 4, 7};
  for (const int bits : widths) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (int turn = 0; turn < 10; ++turn, ++n) {
        const Format format{bits, turn % 3 * 32, zero, static_cast<Scale>(n % 3)};
        const int rows = row_counts[n % 4], cols = col_counts[n / 2 % 4],
                  tokens = token_counts[turn % 5];
        const PackedProblem w(format, rows, cols);
        const Matrix<float> weights = dequantized(w.panels), x = random_rows(tokens, cols);
        for (const Target target : all_targets) {
          if (!runs_here(target)) continue;
          INFO(describe(format, rows, cols, tokens) << ", " << name(target));
          Matrix<float> y(tokens, rows);
          // As two threads share panels; the one that ends first must not be written again.
          const auto kernel = weight_only_kernel(format, target).function;
          const int panels = w.panels.shape.row_tiles(), middle = panels / 2;
          kernel(w.panels, x.ref(), y.ref(), {middle, panels, 0, tokens});
          kernel(w.panels, x.ref(), y.ref(), {0, middle, 0, tokens});
          for (int t = 0; t < tokens; ++t) {
            for (int r = 0; r < rows; ++r) {
              double sum = 0, terms = 0;
              for (int c = 0; c < cols; ++c) {
                const double term = static_cast<double>(weights(r, c)) * x(t, c);
                sum += term, terms += std::fabs(term);
              }
              // n products and n sums, each rounded once at most (u = 2^-24).
              REQUIRE(std::fabs(y(t, r) - sum) <= (cols + 1) * 0x1p-24 * 1.001 * terms);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a weight-only product equals the dense product of the dequantized weights") {
  // Both are one chain of multiply-adds over the columns, so few tokens, many tokens, whole and
  // ragged columns and any number of threads agree to the bit.
  for (const int bits : widths) {
    for (const int cols : {64, 172}) {
      const PackedProblem w(Format{bits, 32, bits % 2 == 0 ? Zero::affine : Zero::symmetric}, 150,
                            cols);
      const Matrix<float> x = random_rows(20, cols), weights = dequantized(w.panels);
      ThreadPool one(1), three(3);
      Matrix<float> many(20, 150), threaded(20, 150), dense(20, 150), few(5, 150);
      multiply(w.panels, x.ref(), many.ref(), one);
      multiply(w.panels, x.ref(), threaded.ref(), three);
      multiply(DenseView{weights.data(), DType::f32, 150, cols}, x.ref(), dense.ref(), one);
      multiply(w.panels, x.ref().rows(4, 5), few.ref(), three);
      REQUIRE(std::memcmp(many.data(), threaded.data(), sizeof(float) * 20 * 150) == 0);
      REQUIRE(std::memcmp(many.data(), dense.data(), sizeof(float) * 20 * 150) == 0);
      REQUIRE(std::memcmp(few.data(), many.ref().row_data(4), sizeof(float) * 5 * 150) == 0);
    }
  }
}

TEST_CASE("rows of packed weights outside the matrix are refused") {
  const PackedProblem w(Format{4, 32}, 20, 64);
  ThreadPool pool(1);
  Matrix<float> out(4, 64), narrow(4, 63);
  REQUIRE_NOTHROW(dequantize(w.panels, 16, out.ref(), pool));
  REQUIRE_THROWS_AS(dequantize(w.panels, 17, out.ref(), pool), ContractViolation);
  REQUIRE_THROWS_AS(dequantize(w.panels, 0, narrow.ref(), pool), ContractViolation);
}
