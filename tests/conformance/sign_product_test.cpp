// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/vector.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

struct SignProblem {
  int k, width;
  std::vector<std::uint8_t> signs;
  std::vector<float> x;  // [k, width], then one value that stays
  SignProblem(int order, int columns) : k(order), width(columns) {
    Random random(static_cast<std::uint64_t>(k * 1000 + width));
    for (int i = 0; i < k * k / 4; ++i)
      signs.push_back(static_cast<std::uint8_t>(random.below(16)));
    for (int i = 0; i <= k * width; ++i) x.push_back(static_cast<float>(random.normal()));
  }
  std::vector<float> apply(decltype(VectorKernels::sign_product) kernel, float scale) const {
    auto y = x;
    std::vector<float> scratch(static_cast<std::size_t>(32 * k) + 1, 7.0f);
    kernel(y.data(), k, signs.data(), width, scale, scratch.data());
    REQUIRE(scratch.back() == 7);
    return y;
  }
};

TEST_CASE("every target computes the scalar sign product to the bit") {
  on_every_target(vector_kernel_table<>, [](Target target, const VectorKernels& kernels) {
    for (const int k : {4, 8, 12, 20, 60, 64, 68, 132, 344}) {
      for (const int width : {1, 3, 7, 8, 12, 15, 16, 17, 31, 32, 33, 64, 84}) {
        if (k > 100 && width > 40) continue;
        CAPTURE(name(target), k, width);
        const SignProblem problem(k, width);
        REQUIRE(problem.apply(kernels.sign_product, 0.3f) ==
                problem.apply(scalar::sign_product<float>, 0.3f));
      }
    }
  });
}

TEST_CASE("the scalar sign product is the product by a matrix of signs") {
  for (const int k : {4, 12, 28}) {
    const SignProblem problem(k, 5);
    const auto y = problem.apply(scalar::sign_product<float>, 1);
    REQUIRE(y.back() == problem.x.back());
    for (int row = 0; row < k; ++row) {
      for (int col = 0; col < 5; ++col) {
        double exact = 0, magnitude = 0;
        for (int j = 0; j < k; ++j) {
          const double value = problem.x[static_cast<std::size_t>(j * 5 + col)];
          const int bits = problem.signs[static_cast<std::size_t>(row * (k / 4) + j / 4)];
          exact += bits >> (j % 4) & 1 ? -value : value;
          magnitude += std::fabs(value);
        }
        // Two additions in each four, k / 4 of fours.
        REQUIRE(std::fabs(y[static_cast<std::size_t>(row * 5 + col)] - exact) <=
                (k / 4 + 2) * 1.001 * 0x1p-24 * magnitude);
      }
    }
  }
}

}  // namespace
