// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bisup/tune/linear_gradient.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <conformance/word_bound.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;
using test::normals;

// What only words lose is allowed for; block_gradient_test.cpp compares the formulas themselves
// with finite differences. On a processor without kernels of words both are floats.
TEST_CASE("a linear multiplied in words is as near as words are, forwards and backwards") {
  constexpr int tokens = 300, in = 320, out = 48, group = 64;
  ThreadPool pool(2);
  SimulatedLinear<float> linear;
  linear.weights = normals(out, in, 1);
  linear.codes = RowRounding{.format = {.bits = 4, .group = group}};
  linear.log_scale.resize(out, in / group);
  linear.products = Products::words;
  const SimulatedInput<float> plain;
  const auto x = normals(tokens, in, 2), dy = normals(tokens, out, 3);
  PreparedInput<float> prepared;
  prepare<float>(plain, x.ref(), prepared, pool);
  Matrix<float> projected, y(tokens, out), dx(tokens, in);
  apply<float>(linear, prepared, false, projected, y.ref(), pool);
  LinearGradient<float> gradient;
  gradient.log_scale.resize(out, in / group);
  for (int i = 0; i < out * in / group; ++i) gradient.log_scale.data()[i] = 0;
  LinearScratch<float> scratch;
  float dclip = 0;
  input_gradient<float>(plain, prepared,
                        std::array{Reader<float>{&linear, &projected, dy.ref(), &gradient}}, false,
                        {.weight_scales = true}, dclip, {}, scratch, dx.ref(), pool);
  const auto& w = linear.weights;
  bool words = false;  // which are off by 7e-3 on average here, floats by 1e-5
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < out; ++r) {
      const auto p = word_product(
          in, [&](int k) { return x(t, k); }, [&](int k) { return w(r, k); });
      const double off = std::fabs(double{y(t, r)} - p.exact);
      REQUIRE(off <= p.bound);
      words = words || off > 1e-3;
    }
    for (int k = 0; k < in; ++k) {
      const auto p = word_product(
          out, [&](int r) { return dy(t, r); }, [&](int r) { return w(r, k); });
      REQUIRE(std::fabs(double{dx(t, k)} - p.exact) <= p.bound);
    }
  }
  CHECK(words == (word_gemm_kernel().pack != dense_gemm_kernel().pack));
  for (int r = 0; r < out; ++r) {
    for (int g = 0; g < in / group; ++g) {
      double exact = 0, bound = 0, magnitude = 0;
      for (int k = g * group; k < (g + 1) * group; ++k) {
        const auto p = word_product(
            tokens, [&](int t) { return dy(t, r); }, [&](int t) { return x(t, k); });
        exact += p.exact * w(r, k), bound += p.bound * std::fabs(w(r, k));
        magnitude += std::fabs(p.exact * w(r, k));
      }
      bound += (group + 1) * 0x1p-24 * (magnitude + bound);
      REQUIRE(std::fabs(double{gradient.log_scale(r, g)} - exact) <= bound);
    }
  }
}

}  // namespace
