// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bisup/core/random.hpp>
#include <bisup/ops/gemm.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/packed_problem.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

constexpr float outside = 31;

// y is a view into the middle of a larger matrix; codes are all there are, words the most that so
// many columns allow among them.
struct NarrowProblem {
  Matrix<std::int8_t> codes;
  std::vector<float> row_scales;
  NarrowPanels panels;
  Matrix<std::int16_t> words;
  std::vector<float> token_scales;
  Matrix<float> before, store;

  NarrowProblem(int rows, int cols, int tokens, bool scales)
      : codes(rows, cols),
        row_scales(scales ? static_cast<std::size_t>(rows) : 0),
        panels((fill(), NarrowPanels(
                            rows, cols, [&](int r, int c) { return codes(r, c); }, row_scales))),
        words(tokens, 2 * panels.view().pairs),
        token_scales(static_cast<std::size_t>(tokens)),
        before(tokens, rows),
        store(tokens + 2, rows + 5) {
    Random random(static_cast<std::uint64_t>(tokens * 17 + cols));
    const int most = WordRows::largest_word(cols);
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < words.cols(); ++c) {
        const std::uint32_t kind = random.below(4);
        const int word =
            kind == 0 || t == 0 ? most
            : kind == 1
                ? -most
                : static_cast<int>(random.below(2u * static_cast<std::uint32_t>(most))) - most;
        words(t, c) = static_cast<std::int16_t>(c < cols ? word : 0);
      }
      for (float& v : before.row(t)) v = static_cast<float>(random.normal());
    }
    for (float& scale : token_scales) scale = static_cast<float>(0.01 + random.uniform());
  }
  [[nodiscard]] WordsView x() const {
    return {words.data(), token_scales.data(), words.rows(), words.cols() / 2};
  }
  [[nodiscard]] MatrixRef<float> y() {
    return store.ref().rows(1, before.rows()).cols(2, before.cols());
  }
  void run(NarrowGemmFn kernel, int first_token, int last_token) {
    std::fill_n(store.data(), store.rows() * store.cols(), outside);
    for (int t = 0; t < before.rows(); ++t)
      std::copy_n(before.row(t).data(), before.cols(), y().row(t).data());
    kernel(panels.view(), x(), y(), {0, panels.view().panels(), first_token, last_token});
  }

 private:
  void fill() {
    Random random(static_cast<std::uint64_t>(codes.rows() * 1009 + codes.cols()));
    for (int r = 0; r < codes.rows(); ++r) {
      for (std::int8_t& code : codes.row(r))
        code = r == 0 ? std::int8_t{-128} : static_cast<std::int8_t>(random.bits());
    }
    for (float& scale : row_scales) scale = static_cast<float>(0.01 + random.uniform());
  }
};

// Against integers in 64 bits. Rounded are the integer as a float, the product of the scales, the
// product of both and the sum: the first three each by 2^-24 of the product, the last of the sum.
void require_narrow(NarrowProblem& p) {
  for (int i = 0; i < p.store.rows(); ++i) {
    for (int j = 0; j < p.store.cols(); ++j) {
      const int t = i - 1, r = j - 2;
      if (t < 0 || t >= p.before.rows() || r < 0 || r >= p.before.cols()) {
        REQUIRE(p.store(i, j) == outside);
        continue;
      }
      std::int64_t dot = 0;
      for (int c = 0; c < p.codes.cols(); ++c) dot += std::int64_t{p.codes(r, c)} * p.words(t, c);
      REQUIRE(std::abs(dot) < std::int64_t{1} << 31);
      const double row_scale = p.row_scales.empty() ? 1 : p.row_scales[static_cast<std::size_t>(r)];
      const double product =
          row_scale * p.token_scales[static_cast<std::size_t>(t)] * static_cast<double>(dot);
      const double exact = p.before(t, r) + product;
      const double bound = 0x1p-24 * 1.001 * (3 * std::fabs(product) + std::fabs(exact));
      CAPTURE(t, r, p.store(i, j), exact, bound);
      REQUIRE(std::fabs(p.store(i, j) - exact) <= bound);
    }
  }
}

TEST_CASE("every target adds the products of few columns that 64-bit integers say") {
  on_every_target(narrow_gemm_kernels, [&](Target target, NarrowGemmFn kernel) {
    CAPTURE(name(target));
    for (const int tokens : {1, 2, 5, 7, 13}) {
      for (const int rows : {1, 8, 15, 17, 40, 172}) {
        for (const int cols : {1, 2, 9, 18, 33, 600}) {
          CAPTURE(tokens, rows, cols);
          NarrowProblem p(rows, cols, tokens, cols % 2 == 0);
          p.run(kernel, 0, tokens);
          require_narrow(p);
        }
      }
    }
  });
}

TEST_CASE("what few columns add does not depend on the tokens beside") {
  on_every_target(narrow_gemm_kernels, [&](Target target, NarrowGemmFn kernel) {
    CAPTURE(name(target));
    NarrowProblem p(40, 9, 13, true);
    p.run(kernel, 0, 13);
    const Matrix<float> all = p.store.clone();
    p.run(kernel, 12, 13);
    for (int t = 0; t < 13; ++t) {
      for (int r = 0; r < 40; ++r)
        REQUIRE(p.y()(t, r) == (t < 12 ? p.before(t, r) : all(t + 1, r + 2)));
    }
  });
}

TEST_CASE("a packed product with columns beside is the sum of both, on any number of threads") {
  constexpr int rows = 172, cols = 96, tokens = 200;
  const PackedProblem w({.bits = 4, .group = 32}, rows, cols);
  const QuantizedActivation x = random_activation({.group = 32}, tokens, cols);
  NarrowProblem keepers(rows, 18, tokens, true), branch(rows, 9, tokens, false);
  ThreadPool one(1), three(3);
  Matrix<float> expected(tokens, rows), y(tokens, rows);
  gemm(w.panels, x.view(), expected.ref(), one);
  const NarrowGemmFn narrow = choose(narrow_gemm_kernels, active_target()).function;
  for (const NarrowProblem* p : {&keepers, &branch})
    narrow(p->panels.view(), p->x(), expected.ref(), {0, p->panels.view().panels(), 0, tokens});
  const std::array<Beside, 2> beside{Beside{keepers.panels.view(), keepers.x()},
                                     {branch.panels.view(), branch.x()}};
  std::vector<float> bias(rows);
  std::iota(bias.begin(), bias.end(), -1.5f);
  for (ThreadPool* pool : {&one, &three}) {
    gemm(w.panels, x.view(), beside, {}, y.ref(), *pool);
    for (int t = 0; t < tokens; ++t) {
      for (int r = 0; r < rows; ++r) REQUIRE(y(t, r) == expected(t, r));
    }
    gemm(w.panels, x.view(), beside, bias, y.ref(), *pool);
    for (int t = 0; t < tokens; ++t) {
      for (int r = 0; r < rows; ++r)
        REQUIRE(y(t, r) == expected(t, r) + bias[static_cast<std::size_t>(r)]);
    }
  }
  CHECK_THROWS_AS(gemm(w.panels, x.view(), {}, std::span(bias).first(rows - 1), y.ref(), one),
                  ContractViolation);

  NarrowProblem low(rows - 1, 9, tokens, false), early(rows, 9, tokens - 1, false);
  for (const Beside& wrong :
       {Beside{low.panels.view(), low.x()}, Beside{early.panels.view(), early.x()},
        Beside{branch.panels.view(), keepers.x()}}) {
    CHECK_THROWS_AS(gemm(w.panels, x.view(), std::array{wrong}, {}, y.ref(), one), ContractViolation);
  }
}

}  // namespace
