// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/ops/few_rows.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE(
    "few rows of codes give the words of a low rank, whatever the threads and tokens beside") {
  constexpr int rows = 9, cols = 70, tokens = 21;
  Random random(3);
  std::vector<std::int8_t> codes(rows * cols);
  for (std::int8_t& code : codes) code = static_cast<std::int8_t>(random.bits());
  const DenseView a{codes.data(), DType::i8, rows, cols};
  std::vector<float> factors(rows);
  for (float& f : factors) f = static_cast<float>(0.01 + random.uniform());
  Matrix<float> x(tokens, cols);
  for (int t = 0; t < tokens; ++t) {
    for (float& v : x.row(t)) v = static_cast<float>(random.normal());
  }
  ThreadPool one(1), three(3);
  const auto words_of = [&](MatrixRef<const float> inputs, ThreadPool& pool) {
    WordRows rounded, words;
    round_words(inputs, rounded, pool);
    few_rows(a, factors.data(), rounded.view(), words, pool);
    return words;
  };
  const WordRows words = words_of(x.ref(), one), others = words_of(x.ref(), three),
                 last = words_of(x.ref().rows(tokens - 1, 1), one);
  REQUIRE(words.view().tokens == tokens);
  REQUIRE(words.view().pairs == 5);
  for (int t = 0; t < tokens; ++t) {
    double most = 0, magnitude = 0;
    std::vector<double> exact(rows);
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int c = 0; c < cols; ++c)
        sum += std::fabs(codes[static_cast<std::size_t>(r * cols + c)]) * 0.5;
      for (int c = 0; c < cols; ++c) {
        exact[static_cast<std::size_t>(r)] +=
            static_cast<double>(codes[static_cast<std::size_t>(r * cols + c)]) * x(t, c) *
            factors[static_cast<std::size_t>(r)];
      }
      magnitude = std::max(magnitude, sum * factors[static_cast<std::size_t>(r)]);
      most = std::max(most, std::fabs(exact[static_cast<std::size_t>(r)]));
    }
    double largest = 0;
    for (const float v : x.row(t)) largest = std::max(largest, std::fabs(static_cast<double>(v)));
    for (int r = 0; r < rows; ++r) {
      const double value = static_cast<double>(words.view().scales[t]) * words.view().row(t)[r];
      // Half a step of each word that was summed and half of its own; all else is far below.
      REQUIRE(std::fabs(value - exact[static_cast<std::size_t>(r)]) <=
              1.01 * (magnitude * largest / 32767 + 0.5 * most / 32767));
      REQUIRE(others.view().row(t)[r] == words.view().row(t)[r]);
    }
    CHECK(words.view().row(t)[rows] == 0);
    REQUIRE(others.view().scales[t] == words.view().scales[t]);
  }
  for (int r = 0; r < rows; ++r) REQUIRE(last.view().row(0)[r] == words.view().row(tokens - 1)[r]);
  CHECK(last.view().scales[0] == words.view().scales[tokens - 1]);
  CHECK_THROWS_AS(words_of(x.ref().cols(0, 68), one), ContractViolation);
}

}  // namespace
