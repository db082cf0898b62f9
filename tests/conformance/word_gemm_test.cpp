// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/dense_gemm.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>
#include <conformance/word_bound.hpp>

namespace {

using namespace bisup;

constexpr DenseGemmKernel word_specification = {4, 4, scalar::dense_panel_rows, scalar::word_pack,
                                                scalar::word_tile};

// Some targets have floats in the table.
bool is_of_words(const DenseGemmKernel& kernel) {
  return kernel.pack != dense_gemm_kernels<>.back().function.pack &&
         kernel.pack != dense_gemm_kernels<>.front().function.pack;
}

// Every kernel of words and the specification, by name.
template <class Check>
void on_every_kernel(Check&& check) {
  check("specification", word_specification);
  on_every_target(word_gemm_kernels<>, [&](Target target, const DenseGemmKernel& kernel) {
    check(name(target), kernel);
  });
}

// y = x w^T, or y += x w^T, of views into larger matrices whose lines are rows or columns and have
// magnitudes of their own.
struct WordGemmProblem {
  Matrix<float> x, w, y;
  int tokens, rows, count;
  bool x_columns, w_columns;

  WordGemmProblem(int t, int r, int c, bool xc, bool wc)
      : x(xc ? c : t, (xc ? t : c) + 3),
        w(wc ? c : r, (wc ? r : c) + 5),
        y(t + 2, r + 5),
        tokens(t),
        rows(r),
        count(c),
        x_columns(xc),
        w_columns(wc) {
    Random random(static_cast<std::uint64_t>(t * 7919 + r * 31 + c));
    for (int line = 0; line < t; ++line) {
      for (int k = 0; k < c; ++k)
        at_x(line, k) = static_cast<float>(random.normal() * std::exp2(line % 7 - k / 100));
    }
    for (int line = 0; line < r; ++line) {
      for (int k = 0; k < c; ++k)
        at_w(line, k) = static_cast<float>(random.normal() * std::exp2(line % 5));
    }
    for (int i = 0; i < y.rows() * y.cols(); ++i) y.data()[i] = untouched;
  }
  float& at_x(int line, int k) { return x_columns ? x(k, line + 3) : x(line, k + 3); }
  float& at_w(int line, int k) { return w_columns ? w(k, line + 5) : w(line, k + 5); }
  MatrixRef<float> product() { return y.ref().rows(1, tokens).cols(2, rows); }

  void run(const DenseGemmKernel& kernel, bool accumulate, ThreadPool& pool) {
    bisup::detail::multiply_blocks(kernel,
                                   {.x = {x.data() + 3, DType::f32, x.ref().stride(), x_columns},
                                    .w = {w.data() + 5, DType::f32, w.ref().stride(), w_columns},
                                    .count = count,
                                    .y = product(),
                                    .accumulate = accumulate},
                                   pool);
  }
};

void check_words(WordGemmProblem p, bool accumulate) {
  CAPTURE(p.tokens, p.rows, p.count, p.x_columns, p.w_columns, accumulate);
  ThreadPool pool(2);
  Matrix<float> specified(p.tokens, p.rows);
  on_every_kernel([&](std::string_view which, const DenseGemmKernel& kernel) {
    CAPTURE(which);
    for (int t = 0; t < p.tokens; ++t) std::fill_n(p.product().row_data(t), p.rows, 3.0f);
    p.run(kernel, accumulate, pool);
    const bool words = is_of_words(kernel);
    for (int t = 0; t < p.tokens; ++t) {
      for (int r = 0; r < p.rows; ++r) {
        if (which == "specification") specified(t, r) = p.product()(t, r);
        // Integers are exact, and what is behind them is rounded in one order.
        if (words) REQUIRE(p.product()(t, r) == specified(t, r));
        const auto expected = word_product(
            p.count, [&](int k) { return p.at_x(t, k); }, [&](int k) { return p.at_w(r, k); });
        const double before = accumulate ? 3 : 0;
        REQUIRE(std::fabs(double{p.product()(t, r)} - expected.exact - before) <=
                expected.bound + before * (p.count + 1) * u);
      }
    }
  });
  for (int t = 0; t < p.y.rows(); ++t) {
    for (int r = 0; r < p.y.cols(); ++r) {
      const bool inside = t >= 1 && t <= p.tokens && r >= 2 && r < 2 + p.rows;
      if (!inside) REQUIRE(p.y(t, r) == untouched);
    }
  }
}

TEST_CASE("products of words are as near as their scales, and those of the specification") {
  for (const bool x_columns : {false, true}) {
    for (const bool w_columns : {false, true}) {
      for (const int count : {1, 2, 3, 31, 255, 256, 257, 600})
        check_words({13, 37, count, x_columns, w_columns}, count % 2 == 0);
      for (const int tokens : {1, 2, 5, 12, 25})
        check_words({tokens, 33, 43, x_columns, w_columns}, false);
      check_words({30, 17, 1537, x_columns, w_columns}, false);  // two blocks of packed k
      check_words({2, 1, 3073, x_columns, w_columns}, true);
      check_words({193, 1, 10925, x_columns, w_columns}, true);  // cut by k before tokens
    }
  }
}

TEST_CASE("256 products of the largest words do not overflow") {
  ThreadPool pool(1);
  on_every_kernel([&](std::string_view which, const DenseGemmKernel& kernel) {
    CAPTURE(which);
    for (const float sign : {1.0f, -1.0f}) {
      WordGemmProblem p(3, 5, 512, false, false);
      for (int k = 0; k < p.count; ++k) {
        for (int t = 0; t < 3; ++t) p.at_x(t, k) = 1.5f;
        for (int r = 0; r < 5; ++r) p.at_w(r, k) = sign;
      }
      p.run(kernel, false, pool);
      for (int t = 0; t < 3; ++t) {
        for (int r = 0; r < 5; ++r)
          REQUIRE(std::fabs(p.product()(t, r) - sign * 768) <= 768 * 8 * u);
      }
    }
  });
}

TEST_CASE("blocks of zeros and of next to nothing give zeros, what is not finite stays so") {
  ThreadPool pool(1);
  on_every_kernel([&](std::string_view which, const DenseGemmKernel& kernel) {
    CAPTURE(which);
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      for (const bool columns : {false, true}) {
        WordGemmProblem p(14, 35, 300, columns, columns);
        for (int k = 0; k < p.count; ++k) p.at_x(1, k) = 0, p.at_x(2, k) = 1e-36f;
        p.at_x(4, 7) = value, p.at_w(33, 290) = value;
        p.run(kernel, false, pool);
        for (int t = 0; t < p.tokens; ++t) {
          for (int r = 0; r < p.rows; ++r) {
            CAPTURE(columns, value, t, r, p.product()(t, r));
            const bool finite = t != 4 && r != 33;
            REQUIRE(std::isfinite(p.product()(t, r)) == finite);
            if (finite && (t == 1 || (t == 2 && is_of_words(kernel))))
              REQUIRE(p.product()(t, r) == 0);
          }
        }
      }
    }
  });
}

TEST_CASE("products of words do not depend on the number of threads nor on the tokens beside") {
  on_every_target(word_gemm_kernels<>, [&](Target target, const DenseGemmKernel& kernel) {
    CAPTURE(name(target));
    ThreadPool one(1), three(3);
    WordGemmProblem p(50, 200, 300, false, true), again(50, 200, 300, false, true);
    p.run(kernel, false, one), again.run(kernel, false, three);
    for (int t = 0; t < 50; ++t)
      REQUIRE(std::memcmp(p.product().row_data(t), again.product().row_data(t), 800) == 0);
    again.tokens = 11;  // the first tokens alone
    again.run(kernel, false, one);
    for (int t = 0; t < 11; ++t)
      REQUIRE(std::memcmp(p.product().row_data(t), again.product().row_data(t), 800) == 0);
  });
}

TEST_CASE("a product is of words where that is asked for") {
  ThreadPool pool(1);
  WordGemmProblem p(20, 40, 256, false, false);
  Matrix<float> floats(20, 40), words(20, 40);
  const auto x = p.x.ref().cols(3, 256), w = p.w.ref().cols(5, 256);
  multiply_transposed(x, w, floats.ref(), Into::replace, pool);
  multiply_transposed(x, w, words.ref(), Into::replace, pool, Products::words);
  bool differs = false;
  for (int t = 0; t < 20; ++t) {
    for (int r = 0; r < 40; ++r) differs = differs || floats(t, r) != words(t, r);
  }
  CHECK(differs == (word_gemm_kernel().pack != dense_gemm_kernel().pack));
}

}  // namespace
