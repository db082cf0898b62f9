// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/llama/linear.hpp>
#include <bisup/quant/nearest.hpp>

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

}  // namespace
