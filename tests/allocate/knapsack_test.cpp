// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/allocate/knapsack.hpp>
#include <bisup/core/random.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

double loss_of(const std::vector<std::vector<Choice>>& items, const std::vector<int>& chosen) {
  double loss = 0;
  for (std::size_t i = 0; i < items.size(); ++i)
    loss += items[i][static_cast<std::size_t>(chosen[i])].loss;
  return loss;
}

TEST_CASE("no assignment within the budget loses less than the chosen one") {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<std::vector<Choice>> items(1 + random.below(5));
    for (auto& item : items) {
      for (std::uint32_t i = 0; i <= random.below(4); ++i)
        item.push_back({static_cast<int>(random.below(9)), random.uniform()});
    }
    const int budget = static_cast<int>(random.below(25));
    // All of them, one after the other.
    double least = 1e9;
    std::vector<std::size_t> at(items.size(), 0);
    for (bool more = true; more;) {
      int cost = 0;
      double loss = 0;
      for (std::size_t i = 0; i < items.size(); ++i)
        cost += items[i][at[i]].cost, loss += items[i][at[i]].loss;
      if (cost <= budget) least = std::min(least, loss);
      more = false;
      for (std::size_t i = 0; i < items.size() && !more; ++i) {
        if (++at[i] < items[i].size()) {
          more = true;
        } else {
          at[i] = 0;
        }
      }
    }
    const auto chosen = choose(items, budget);
    REQUIRE(static_cast<bool>(chosen) == (least < 1e9));
    if (!chosen) continue;
    int cost = 0;
    for (std::size_t i = 0; i < items.size(); ++i)
      cost += items[i][static_cast<std::size_t>((*chosen)[i])].cost;
    REQUIRE(cost <= budget);
    // Sums of five numbers below 1, in another order.
    REQUIRE(loss_of(items, *chosen) <= least + 5 * 0x1p-52);
  }
}

TEST_CASE("a budget below the cheapest is refused") {
  CHECK(choose({{{3, 1.0}}, {{4, 1.0}, {9, 0.0}}}, 6).error().code == Errc::out_of_range);
  CHECK(choose({{{3, 1.0}}, {{4, 1.0}, {9, 0.0}}}, 7).value() == std::vector<int>{0, 0});
  CHECK_FALSE(choose({}, -1));
  CHECK(choose({}, 0).value().empty());
}

}  // namespace
