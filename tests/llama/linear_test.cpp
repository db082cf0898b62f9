// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/llama/linear.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("typed, run-time and dense linears agree where they must, bias included") {
  Random random(9);
  Matrix<float> weights(20, 96), x(4, 96);
  for (auto* m : {&weights, &x}) {
    for (int r = 0; r < m->rows(); ++r) {
      for (float& v : m->row(r)) v = static_cast<float>(random.normal());
    }
  }
  const std::vector<float> bias(20, 3.0f);
  ThreadPool pool(2);
  const llama::PackedLinear<int4_g32> typed{quantize<int4_g32>(weights.ref()).value(), bias};
  const llama::AnyLinear any(quantize(weights.ref(), int4_g32::value).value(), bias);
  const llama::AnyLinear without(quantize(weights.ref(), int4_g32::value).value());
  CHECK(any.in() == 96);
  CHECK(any.out() == 20);
  CHECK(any.bytes() == typed.weights.bytes() + 80);
  for (const bool quantized : {true, false}) {
    llama::Activation input;
    input.prepare(
        x.ref(),
        quantized ? llama::InputForm{ActivationFormat{.group = 32}, false} : llama::InputForm{},
        pool);
    Matrix<float> a(4, 20), b(4, 20), c(4, 20);
    typed.apply(input, a.ref(), pool), any.apply(input, b.ref(), pool),
        without.apply(input, c.ref(), pool);
    for (int t = 0; t < 4; ++t) {
      for (int r = 0; r < 20; ++r) {
        REQUIRE(a(t, r) == b(t, r));
        REQUIRE(a(t, r) == c(t, r) + 3.0f);
      }
    }
  }
}

TEST_CASE("a bias of another length is a broken contract") {
  CHECK_THROWS_AS(llama::AnyLinear(llama::dense_tensor(Matrix<float>(4, 8)), std::vector<float>(5)),
                  ContractViolation);
}

TEST_CASE("keepers and a low-rank branch are added to what the packed body gives") {
  constexpr int rows = 20, cols = 128, kept = 32, body = cols - kept, tokens = 3;
  Random random(5);
  const auto gaussian = [&](int r, int c) {
    Matrix<float> m(r, c);
    for (int i = 0; i < r; ++i) {
      for (float& v : m.row(i)) v = static_cast<float>(random.normal());
    }
    return m;
  };
  const Matrix<float> w = gaussian(rows, cols), x = gaussian(tokens, cols);
  const Matrix<float> a = gaussian(4, cols), b = gaussian(rows, 4);
  ThreadPool pool(2);
  const Format format{.bits = 4, .group = 32};
  llama::AnyLinear linear(quantize(w.ref().cols(0, body), format).value(), {},
                          quantize(w.ref().cols(body, kept), int8_channel::value).value());
  CHECK(linear.in() == cols);
  const std::size_t before = linear.bytes();
  linear.set_branch({llama::dense_tensor(a.clone()), llama::dense_tensor(transposed(b.ref()))});
  CHECK(linear.bytes() == before + sizeof(float) * 4 * (cols + rows));

  // The same weights and inputs in floats: one summation order against another, and the branch's
  // own.
  Matrix<float> dense(rows, cols);
  dequantize(linear.packed()->panels(), 0, dense.ref().cols(0, body), pool);
  dequantize(linear.keepers()->panels(), 0, dense.ref().cols(body, kept), pool);
  for (const bool quantized : {true, false}) {
    const std::optional<ActivationFormat> form =
        quantized ? std::optional(ActivationFormat{.bits = 4, .group = 32}) : std::nullopt;
    llama::Activation input, rounded;
    input.prepare(x.ref(), {.format = form, .keepers = kept}, pool);
    rounded.prepare(x.ref(), {.format = form, .simulate = true, .keepers = kept}, pool);
    Matrix<float> y(tokens, rows), simulated(tokens, rows);
    linear.apply(input, y.ref(), pool), linear.apply(rounded, simulated.ref(), pool);
    for (int t = 0; t < tokens; ++t) {
      for (int r = 0; r < rows; ++r) {
        double exact = 0, magnitude = 0;
        for (int c = 0; c < cols; ++c) {
          const double term =
              static_cast<double>(dense(r, c)) * static_cast<double>(rounded.values()(t, c));
          exact += term, magnitude += std::fabs(term);
        }
        for (int i = 0; i < 4; ++i) {
          for (int c = 0; c < cols; ++c) {
            const double term = static_cast<double>(b(r, i)) * static_cast<double>(a(i, c)) *
                                static_cast<double>(x(t, c));
            exact += term, magnitude += std::fabs(term);
          }
        }
        CHECK(std::fabs(static_cast<double>(y(t, r)) - exact) <= (cols + 16) * 0x1p-24 * magnitude);
        CHECK(std::fabs(static_cast<double>(simulated(t, r)) - exact) <=
              (cols + 16) * 0x1p-24 * magnitude);
      }
    }
  }
  CHECK_THROWS_AS(
      linear.set_branch({llama::dense_tensor(a.clone()), llama::dense_tensor(gaussian(5, rows))}),
      ContractViolation);

  // In integers, a branch of codes is added last, and another takes its place.
  llama::AnyLinear bare(*linear.packed(), {}, *linear.keepers());
  llama::Activation input;
  input.prepare(x.ref(), {.format = ActivationFormat{.bits = 4, .group = 32}, .keepers = kept},
                pool);
  const NarrowGemmFn narrow = choose(narrow_gemm_kernels, active_target()).function;
  for (int i = 0; i < 2; ++i) {
    const llama::Branch codes =
        llama::stored_branch(gaussian(5, cols), gaussian(5, rows), DType::i8);
    linear.set_branch(codes);
    Matrix<float> y(tokens, rows), expected(tokens, rows);
    linear.apply(input, y.ref(), pool), bare.apply(input, expected.ref(), pool);
    WordRows words;
    codes.prepare(input.exact_words(pool), words, pool);
    const NarrowPanels beside = codes.beside();
    narrow(beside.view(), words.view(), expected.ref(), {0, 2, 0, tokens});
    for (int t = 0; t < tokens; ++t) {
      for (int r = 0; r < rows; ++r) REQUIRE(y(t, r) == expected(t, r));
    }
  }
}

TEST_CASE("keepers of other codes than those that stand beside are a broken contract") {
  Matrix<float> w(16, 96);
  for (int r = 0; r < 16; ++r) std::ranges::fill(w.row(r), 1.0f);
  const Format format{.bits = 4, .group = 32};
  CHECK_THROWS_AS(llama::AnyLinear(quantize(w.ref().cols(0, 64), format).value(), {},
                                   quantize(w.ref().cols(64, 32), format).value()),
                  ContractViolation);
}

}  // namespace
