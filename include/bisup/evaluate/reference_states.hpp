// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What has a reference computed before? The hidden states behind its final norm, for each run of
// tokens it read, as they were: the next comparison with it computes its logits alone, and comes to
// the same numbers to the bit. A hidden state is a hundredth of the logits it stands for.

#include <algorithm>
#include <cstddef>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>

namespace bisup {

class ReferenceStates {
 public:
  struct Read {
    std::vector<int> ids;
    Matrix<float> states;  // [ids, hidden]
  };

  // Null for ids that the reference has not read. What it returns stays where it is.
  [[nodiscard]] const Read* find(std::span<const int> ids) const {
    const auto found = std::ranges::find_if(
        reads_, [&](const Read& read) { return std::ranges::equal(read.ids, ids); });
    return found == reads_.end() ? nullptr : &*found;
  }
  const Read& add(std::span<const int> ids, Matrix<float> states) {
    reads_.push_back({{ids.begin(), ids.end()}, std::move(states)});
    return reads_.back();
  }
  [[nodiscard]] std::size_t size() const noexcept { return reads_.size(); }
  [[nodiscard]] auto begin() const noexcept { return reads_.begin(); }
  [[nodiscard]] auto end() const noexcept { return reads_.end(); }

 private:
  std::deque<Read> reads_;
};

}  // namespace bisup
