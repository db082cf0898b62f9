// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/combine_rows.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

// Rows of any type; x and y are views into the middle of larger matrices.
struct CombineProblem {
  std::vector<float> floats;
  std::vector<std::uint16_t> bits;
  std::vector<std::int8_t> codes;
  Matrix<float> x_store, y_store, before;
  DenseView rows;
  MatrixRef<const float> x;
  MatrixRef<float> y;

  CombineProblem(DType type, int tokens, int count, int cols)
      : floats(static_cast<std::size_t>(count * cols)),
        bits(floats.size()),
        codes(floats.size()),
        x_store(tokens + 2, count + 7),
        y_store(tokens + 2, cols + 5) {
    Random random(static_cast<std::uint64_t>(tokens * 7919 + count * 31 + cols));
    for (std::size_t i = 0; i < floats.size(); ++i) {
      floats[i] = static_cast<float>(random.normal());
      codes[i] = static_cast<std::int8_t>(random.bits());
      bits[i] = type == DType::f16 ? to_half(floats[i]).bits : to_bfloat16(floats[i]).bits;
    }
    for (Matrix<float>* m : {&x_store, &y_store}) {
      for (int r = 0; r < m->rows(); ++r) {
        for (float& v : m->row(r)) v = static_cast<float>(random.normal());
      }
    }
    before = y_store.clone();
    rows = {type == DType::f32  ? static_cast<const void*>(floats.data())
         : type == DType::i8 ? static_cast<const void*>(codes.data())
                             : bits.data(),
         type, count,
            cols};
    x = x_store.ref().rows(1, tokens).cols(3, count);
    y = y_store.ref().rows(1, tokens).cols(2, cols);
  }
  void put_back() {
    for (int t = 0; t < before.rows(); ++t)
      std::copy_n(before.row(t).data(), before.cols(), y_store.row(t).data());
  }
};

// Against the sum in double. One chain of n fused multiply-adds, begun with y, errs by at most
// n u / (1 - n u) times the sum of magnitudes (Higham, Accuracy and Stability, 3.1; u = 2^-24); the
// scalar chain rounds the products too: n + 1.
void require_combined(const CombineProblem& p) {
  for (int t = 0; t < p.y_store.rows(); ++t) {
    for (int c = 0; c < p.y_store.cols(); ++c) {
      const bool inside = t >= 1 && t <= p.y.rows() && c >= 2 && c < 2 + p.y.cols();
      if (!inside) {
        REQUIRE(p.y_store(t, c) == p.before(t, c));
        continue;
      }
      double exact = p.before(t, c), magnitude = std::fabs(exact);
      for (int k = 0; k < p.rows.rows; ++k) {
        const double term = static_cast<double>(p.x(t - 1, k)) * static_cast<double>(p.rows(k, c - 2));
        exact += term, magnitude += std::fabs(term);
      }
      REQUIRE(std::fabs(static_cast<double>(p.y_store(t, c)) - exact) <=
              (p.rows.rows + 1) * 0x1p-24 * 1.001 * magnitude);
    }
  }
}

TEST_CASE("every target adds the combinations of rows that the sum in double says") {
  ThreadPool pool(2);
  const auto check = [&](DenseCombineFn kernel, DType type, int tokens, int count, int cols) {
    CAPTURE(name(type), tokens, count, cols);
    CombineProblem p(type, tokens, count, cols);
    combine_rows_with(kernel, p.rows, p.x, p.y, pool);
    require_combined(p);
  };
  on_every_target(dense_combine_kernels<>, [&](Target target, DenseCombineFn kernel) {
    CAPTURE(name(target));
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
      for (const int tokens : {1, 4, 5, 35}) {
        for (const int cols : {1, 7, 8, 9, 16, 31, 33, 576}) check(kernel, type, tokens, 9, cols);
      }
      check(kernel, type, 2, 1, 40), check(kernel, type, 3, 32, 1100);
    }
  });
}

TEST_CASE("combinations do not depend on the number of threads nor on the tokens beside") {
  on_every_target(dense_combine_kernels<>, [&](Target target, DenseCombineFn kernel) {
    CAPTURE(name(target));
    ThreadPool one(1), three(3);
    CombineProblem p(DType::f16, 50, 32, 1100);
    combine_rows_with(kernel, p.rows, p.x, p.y, one);
    const Matrix<float> first = p.y_store.clone();
    const auto require_same = [&](int from) {
      for (int t = 0; t < p.y.rows(); ++t) {
        const Matrix<float>& expected = t < from ? p.before : first;
        for (int c = 0; c < p.y.cols(); ++c) REQUIRE(p.y(t, c) == expected(t + 1, c + 2));
      }
    };
    p.put_back();
    combine_rows_with(kernel, p.rows, p.x, p.y, three);
    require_same(0);
    p.put_back();  // the last tokens alone
    combine_rows_with(kernel, p.rows, p.x.rows(47, 3), p.y.rows(47, 3), one);
    require_same(47);
  });
}

TEST_CASE("no rows add nothing, and what does not fit is refused") {
  ThreadPool pool(1);
  CombineProblem p(DType::f32, 4, 6, 8);
  combine_rows(DenseView{p.rows.data, DType::f32, 0, 8}, p.x.cols(0, 0), p.y, pool);
  for (int t = 0; t < 4; ++t) {
    for (int c = 0; c < 8; ++c) REQUIRE(p.y(t, c) == p.before(t + 1, c + 2));
  }
  CHECK_THROWS_AS(combine_rows(p.rows, p.x.cols(0, 5), p.y, pool), ContractViolation);
  CHECK_THROWS_AS(combine_rows(p.rows, p.x, p.y.cols(0, 7), pool), ContractViolation);
  CHECK_THROWS_AS(combine_rows(p.rows, p.x.rows(0, 3), p.y, pool), ContractViolation);
}

}  // namespace
