// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/permutation.hpp>

#include <bisup_test.hpp>
#include <transform/reference_block.hpp>

namespace {

using namespace bisup;

Permutation some_order(int count) {
  Random random(8);
  std::vector<double> statistic(static_cast<std::size_t>(count));
  for (double& v : statistic) v = random.uniform();
  return Permutation::ascending<double>(statistic);
}

TEST_CASE("channels are sorted by their statistic, equal ones in their order") {
  const std::vector<float> statistic = {3, 1, 2, 1, 9, 0};
  const auto p = Permutation::ascending<float>(statistic);
  CHECK(std::vector<int>(p.order().begin(), p.order().end()) == std::vector<int>{5, 1, 3, 2, 0, 4});
  auto x = statistic;
  p.apply(std::span(x));
  CHECK(x == std::vector<float>{0, 1, 1, 2, 3, 9});
  p.apply_inverse(std::span(x));
  CHECK(x == statistic);
  p.inverse().apply(std::span(x));
  p.apply(std::span(x));
  CHECK(x == statistic);
  CHECK(p.inverse().inverse() == p);
  CHECK(Permutation() == Permutation::ascending<float>({}));
}

TEST_CASE("an order that is none is refused") {
  CHECK_THROWS_AS(Permutation({0, 0}), ContractViolation);
  CHECK_THROWS_AS(Permutation({0, 2}), ContractViolation);
  CHECK_THROWS_AS(Permutation({-1, 0}), ContractViolation);
  std::vector<double> x(3);
  CHECK_THROWS_AS(Permutation({1, 0}).apply(std::span(x)), ContractViolation);
  CHECK_THROWS_AS(Permutation({1, 0}).apply_inverse(std::span(x)), ContractViolation);
}

TEST_CASE("permuted inputs with permuted columns are the same function") {
  ThreadPool pool(1);
  const auto before = random_reference(true, true);
  auto m = random_reference(true, true);
  permute_intermediate(m.block, some_order(m.shape.intermediate), pool);
  CHECK(difference(before, m) < same);
  CHECK(m.block.up.bias != before.block.up.bias);

  const auto output = some_order(m.shape.heads * m.shape.head_dim);
  absorb_input_rotation(m.block.o.weights.ref(), output, pool);
  CHECK(difference(before, m) > another);
  m.before_output = [output](std::span<double> x) { output.apply(x); };
  CHECK(difference(before, m) < same);
}

}  // namespace
