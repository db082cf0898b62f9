// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In which order do channels share groups? Atom sorts them by a statistic, so that a group holds
// channels of one size and the largest come last, where they are kept in more bits. A permutation
// is a Rotation: merge.hpp absorbs it like any other, and no bit changes.

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/transform/merge.hpp>
#include <bisup/transform/rotation.hpp>

namespace bisup {

class Permutation {
 public:
  Permutation() = default;
  // New channel i is old channel order[i]. Requires every channel exactly once.
  explicit Permutation(std::vector<int> order) : order_(std::move(order)) {
    std::vector<char> seen(order_.size(), 0);
    for (const int old : order_) {
      BISUP_EXPECTS(old >= 0 && old < size() && !seen[static_cast<std::size_t>(old)]);
      seen[static_cast<std::size_t>(old)] = 1;
    }
  }
  // The smallest statistic first; equal ones keep their order.
  template <class T>
  [[nodiscard]] static Permutation ascending(std::span<const T> statistic) {
    std::vector<int> order(statistic.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return statistic[static_cast<std::size_t>(a)] < statistic[static_cast<std::size_t>(b)];
    });
    return Permutation(std::move(order));
  }

  [[nodiscard]] int size() const noexcept { return static_cast<int>(order_.size()); }
  [[nodiscard]] std::span<const int> order() const noexcept { return order_; }
  [[nodiscard]] Permutation inverse() const {
    std::vector<int> order(order_.size());
    for (int i = 0; i < size(); ++i) order[static_cast<std::size_t>(old_of(i))] = i;
    return Permutation(std::move(order));
  }
  friend bool operator==(const Permutation&, const Permutation&) = default;

  template <class T>
  void apply(std::span<T> x) const {
    BISUP_EXPECTS(x.size() == order_.size());
    const std::vector<T> before(x.begin(), x.end());
    for (int i = 0; i < size(); ++i) {
      x[static_cast<std::size_t>(i)] = before[static_cast<std::size_t>(old_of(i))];
    }
  }
  template <class T>
  void apply_inverse(std::span<T> x) const {
    BISUP_EXPECTS(x.size() == order_.size());
    const std::vector<T> before(x.begin(), x.end());
    for (int i = 0; i < size(); ++i) {
      x[static_cast<std::size_t>(old_of(i))] = before[static_cast<std::size_t>(i)];
    }
  }

 private:
  [[nodiscard]] int old_of(int i) const { return order_[static_cast<std::size_t>(i)]; }
  std::vector<int> order_;
};

static_assert(Rotation<Permutation>);

// The input of down is permuted where gate and up write it: nothing is left to do at run time.
template <class T>
void permute_intermediate(FloatBlock<T>& block, const Permutation& permutation, ThreadPool& pool) {
  absorb_output_rotation(block.gate, permutation, pool);
  absorb_output_rotation(block.up, permutation, pool);
  absorb_input_rotation(block.down.weights.ref(), permutation, pool);
}

}  // namespace bisup
