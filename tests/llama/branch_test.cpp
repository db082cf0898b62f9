// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/narrow_gemm.hpp>
#include <bisup/llama/branch.hpp>
#include <algorithm>
#include <cmath>
#include <utility>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> gaussian(int rows, int cols, std::uint64_t seed) {
  Random random(seed);
  Matrix<float> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (float& v : m.row(r)) v = static_cast<float>(random.normal() * std::exp2(r));
  }
  return m;
}

TEST_CASE("codes of a branch are within half a step of what they stand for") {
  constexpr int rank = 5, in = 70, out = 40;
  const Matrix<float> a = gaussian(rank, in, 1), b = gaussian(rank, out, 2);
  const llama::Branch branch = llama::stored_branch(a.clone(), b.clone(), DType::i8);
  REQUIRE(branch.consistent());
  CHECK(branch.bytes() == rank * (in + out + sizeof(float)));
  CHECK(static_cast<double>(branch.bytes()) * 8 == rank * llama::component_bits(in, out, DType::i8));
  for (int r = 0; r < rank; ++r) {
    const auto largest = [r](const Matrix<float>& m) {
      double most = 0;
      for (const float v : m.row(r)) most = std::fmax(most, std::fabs(v));
      return most;
    };
    const double step_a = largest(a) / 127, step_b = largest(b) / 127;
    for (int i = 0; i < in; ++i) {
      for (int o = 0; o < out; ++o) {
        const double made = static_cast<double>(branch.a_values()(r, i)) * branch.b_values()(r, o);
        const double x = a(r, i), y = b(r, o);
        // Half a step of each, the rounding of a quotient beside it, and of a scale, its root and two products.
        const double bound = 0.5001 * (std::fabs(x) * step_b + std::fabs(y) * step_a) +
                             0.2501 * step_a * step_b + 8 * 0x1p-24 * std::fabs(x * y);
        REQUIRE(std::fabs(made - x * y) <= bound);
      }
    }
  }
}

TEST_CASE("a branch of codes adds what its values say, for few tokens and for many") {
  constexpr int rank = 18, in = 96, out = 56;
  const llama::Branch branch = llama::stored_branch(gaussian(rank, in, 3), gaussian(rank, out, 4), DType::i8);
  const Matrix<float> a = branch.a_values(), b = branch.b_values();
  for (const int tokens : {1, 3, 40}) {
    CAPTURE(tokens);
    const Matrix<float> x = gaussian(1, tokens * in, 5);
    const MatrixRef<const float> inputs(x.data(), tokens, in);
    Matrix<float> y(tokens, out);
    ThreadPool pool(2);
    branch.apply(inputs, y.ref(), pool);
    Matrix<float> from_words(tokens, out);
    for (int t = 0; t < tokens; ++t) std::ranges::fill(from_words.row(t), 0.0f);
    WordRows words, input_words;
    round_words(inputs, input_words, pool);
    branch.prepare(input_words.view(), words, pool);
    const NarrowPanels beside = branch.beside();
    scalar::narrow_gemm(beside.view(), words.view(), from_words.ref(), {0, beside.view().panels(), 0, tokens});
    for (int t = 0; t < tokens; ++t) {
      for (int o = 0; o < out; ++o) {
        double exact = 0, magnitude = 0, codes = 0, most = 0, largest = 0, steps = 0;
        for (int r = 0; r < rank; ++r) {
          double inner = 0, sum = 0;
          for (int i = 0; i < in; ++i) {
            const double term = static_cast<double>(a(r, i)) * inputs(t, i);
            inner += term, sum += std::fabs(term);
          }
          exact += inner * b(r, o), magnitude += sum * std::fabs(static_cast<double>(b(r, o)));
          // A value of b is a code times the root of the scale; the words are of inner times that root.
          const double root = std::sqrt(static_cast<double>(branch.scale[static_cast<std::size_t>(r)]));
          codes += std::fabs(static_cast<double>(b(r, o))) / root, most = std::max(most, std::fabs(inner) * root);
          for (int i = 0; i < in; ++i) steps += 0.5 * std::fabs(static_cast<double>(a(r, i)) * b(r, o));
        }
        for (int i = 0; i < in; ++i) largest = std::max(largest, std::fabs(static_cast<double>(inputs(t, i))));
        // Sums of `in` and `rank` products, the scale applied and its own product (u = 2^-24).
        const double rounding = (in + rank + 4) * 0x1p-24 * 1.001 * magnitude;
        REQUIRE(std::fabs(y(t, o) - exact) <= rounding);
        // Besides, half a step of each word of inner and of x, 32767 of which are the largest.
        REQUIRE(std::fabs(from_words(t, o) - exact) <=
                rounding + (0.501 * most * codes + 1.001 * largest * steps) / 32767);
      }
    }
  }
}

TEST_CASE("a component of next to nothing is zero, and halves hold their largest") {
  Matrix<float> a = gaussian(2, 8, 6), b = gaussian(2, 8, 7);
  for (float& v : a.row(0)) v = 1e-40f;  // whose inverse is infinite: as good as zero
  b(1, 3) = 1e6f;
  const llama::Branch codes = llama::stored_branch(a.clone(), b.clone(), DType::i8);
  const Matrix<float> values = codes.a_values();
  for (const float v : values.row(0)) CHECK(v == 0);
  const llama::Branch halves = llama::stored_branch(std::move(a), std::move(b), DType::f16);
  REQUIRE(halves.consistent());
  CHECK(halves.b_values()(1, 3) == 65504);
  CHECK(halves.bytes() == 2 * 2 * (8 + 8));
}

TEST_CASE("both factors of codes come back in one size, as tuning wants them") {
  const llama::Branch branch = llama::stored_branch(gaussian(3, 40, 1), gaussian(3, 24, 2), DType::i8);
  const Matrix<float> a = branch.a_values(), b = branch.b_values();
  for (int r = 0; r < 3; ++r) {
    const auto largest = [r](const Matrix<float>& m) {
      float most = 0;
      for (const float v : m.row(r)) most = std::max(most, std::fabs(v));
      return most;
    };
    CHECK(largest(a) == largest(b));  // 127 times the same number
  }
}

TEST_CASE("codes without their scales are no branch") {
  llama::Branch branch = llama::stored_branch(gaussian(2, 8, 8), gaussian(2, 8, 9), DType::i8);
  CHECK(branch.consistent());
  branch.scale.pop_back();
  CHECK_FALSE(branch.consistent());
  CHECK_THROWS_AS(llama::stored_branch(gaussian(2, 8, 8), gaussian(3, 8, 9), DType::f16), ContractViolation);
}

}  // namespace
