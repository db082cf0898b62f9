// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which choice for each item, when every choice costs something and loses something? The least loss
// within a budget, exactly: dynamic programming over the budget.

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>

namespace bisup {

struct Choice {
  int cost = 0;  // not below 0
  double loss = 0;
};

// choices: of each item, at least one. Returns which one each item gets; of equal losses the
// cheaper. Errors: out_of_range if even the cheapest choices exceed the budget.
[[nodiscard]] inline Result<std::vector<int>> choose(
    const std::vector<std::vector<Choice>>& choices, int budget) {
  constexpr double impossible = std::numeric_limits<double>::infinity();
  const auto most = static_cast<std::size_t>(std::max(budget, 0));
  // best[b]: the least loss of the items so far at a cost of exactly b.
  std::vector<double> best(most + 1, impossible);
  best[0] = 0;
  std::vector<std::vector<int>> taken;  // [items][cost]: the choice that led there
  for (const auto& item : choices) {
    BISUP_EXPECTS(!item.empty());
    std::vector<double> next(most + 1, impossible);
    std::vector<int>& from = taken.emplace_back(most + 1, -1);
    for (std::size_t i = 0; i < item.size(); ++i) {
      BISUP_EXPECTS(item[i].cost >= 0);
      const auto cost = static_cast<std::size_t>(item[i].cost);
      for (std::size_t b = cost; b <= most; ++b) {
        const double loss = best[b - cost] + item[i].loss;
        if (loss < next[b]) next[b] = loss, from[b] = static_cast<int>(i);
      }
    }
    best = std::move(next);
  }
  auto at = static_cast<std::size_t>(std::min_element(best.begin(), best.end()) - best.begin());
  if (budget < 0 || best[at] == impossible) {
    return Error{Errc::out_of_range,
                 "no choice stays within a budget of " + std::to_string(budget)};
  }
  std::vector<int> chosen(choices.size());
  for (std::size_t i = choices.size(); i-- > 0;) {
    chosen[i] = taken[i][at];
    at -= static_cast<std::size_t>(choices[i][static_cast<std::size_t>(chosen[i])].cost);
  }
  return chosen;
}

}  // namespace bisup
