// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/dense.hpp>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("elements of each type, by row and column, inside their bounds") {
  const std::vector<float> f = {1, 2, 3, 4, 5, 6};
  std::vector<Half> h;
  std::vector<BFloat16> b;
  for (const float x : f) h.push_back(to_half(x)), b.push_back(to_bfloat16(x));
  for (const DenseView view :
       {DenseView{f.data(), DType::f32, 2, 3}, DenseView{h.data(), DType::f16, 2, 3},
        DenseView{b.data(), DType::bf16, 2, 3}}) {
    CHECK(view(0, 2) == 3);
    CHECK(view(1, 0) == 4);
    CHECK(view.bytes() == static_cast<std::size_t>(6 * bytes_of(view.type)));
    CHECK_THROWS_AS(view(2, 0), ContractViolation);
    CHECK_THROWS_AS(view(0, 3), ContractViolation);
    CHECK_THROWS_AS(view(-1, 0), ContractViolation);
  }
}

}  // namespace
