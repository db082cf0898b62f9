// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In which order are samples learned from? Each pass over them in another one; and where a step
// takes only a segment of a sample, its segments one after the other, so that each can be read
// behind what those before it left in the cache.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/random.hpp>

namespace bisup::tune {

// The samples of one pass: every pass is a permutation of its own.
[[nodiscard]] inline std::vector<int> order_of_pass(int pass, int count, std::uint64_t seed) {
  BISUP_EXPECTS(pass >= 0 && count > 0);
  std::vector<int> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  Random random(seed, static_cast<std::uint64_t>(pass));
  for (int i = count - 1; i > 0; --i) {
    const auto j = random.below(static_cast<std::uint32_t>(i + 1));
    std::swap(order[static_cast<std::size_t>(i)], order[j]);
  }
  return order;
}

// Sample `n` of an endless walk through `count` samples.
[[nodiscard]] inline int shuffled(int n, int count, std::uint64_t seed) {
  BISUP_EXPECTS(n >= 0 && count > 0);
  return order_of_pass(n / count, count, seed)[static_cast<std::size_t>(n % count)];
}

// Tokens [first, first + tokens) of a sample.
struct Segment {
  int sample = 0, first = 0, tokens = 0;
  bool last = true;  // of its sample
};

// The segments of a sample of so many tokens: all of `segment` tokens but the last.
[[nodiscard]] constexpr int segments_of(int tokens, int segment) {
  return (tokens + segment - 1) / segment;
}
[[nodiscard]] constexpr Segment segment_of(int sample, int tokens, int n, int segment) {
  const int first = n * segment;
  return {sample, first, std::min(segment, tokens - first), first + segment >= tokens};
}

// All segments of all samples once, samples in random order, and again in another one.
class SegmentWalk {
 public:
  // lengths: tokens of each sample, at least one.
  SegmentWalk(std::vector<int> lengths, int segment, std::uint64_t seed)
      : lengths_(std::move(lengths)), segment_(segment), seed_(seed) {
    BISUP_EXPECTS(!lengths_.empty() && segment >= 1);
    for (const int tokens : lengths_) {
      BISUP_EXPECTS(tokens >= 1);
      pass_ += segments_of(tokens, segment);
    }
  }

  [[nodiscard]] Segment at(int step) const {
    BISUP_EXPECTS(step >= 0);
    const auto order = order_of_pass(step / pass_, static_cast<int>(lengths_.size()), seed_);
    const auto tokens = [&](int sample) { return lengths_[static_cast<std::size_t>(sample)]; };
    auto sample = order.begin();
    int left = step % pass_;  // below pass_: the samples of a pass do not run out
    while (left >= segments_of(tokens(*sample), segment_))
      left -= segments_of(tokens(*sample++), segment_);
    return segment_of(*sample, tokens(*sample), left, segment_);
  }

 private:
  std::vector<int> lengths_;
  int segment_;
  std::uint64_t seed_;
  int pass_ = 0;  // segments of one pass
};

}  // namespace bisup::tune
