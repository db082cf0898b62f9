// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How can the gradient of a rounding be checked by finite differences? Not by moving x: the codes
// jump. A tape records, in double, what each rounding added (inside the range) or at which bound it
// stopped, and replays that while parameters move: the function whose derivative the
// straight-through estimator is.

#include <cstddef>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>

namespace bisup::tune {

class RoundingTape {
 public:
  // The tape that this thread's roundings in double follow, or null.
  [[nodiscard]] static RoundingTape*& active() {
    static thread_local RoundingTape* tape = nullptr;
    return tape;
  }

  void record() { values_.clear(), next_ = 0, replaying_ = false; }
  void replay() { next_ = 0, replaying_ = true; }

  // `now` while recording, what was recorded while replaying.
  double follow(double now) {
    if (!replaying_) return values_.push_back(now), now;
    BISUP_EXPECTS(next_ < values_.size());
    return values_[next_++];
  }

 private:
  std::vector<double> values_;
  std::size_t next_ = 0;
  bool replaying_ = false;
};

// Makes `tape` the active one while it lives.
class UsingTape {
 public:
  explicit UsingTape(RoundingTape& tape) : before_(std::exchange(RoundingTape::active(), &tape)) {}
  UsingTape(const UsingTape&) = delete;
  UsingTape& operator=(const UsingTape&) = delete;
  ~UsingTape() { RoundingTape::active() = before_; }

 private:
  RoundingTape* before_;
};

}  // namespace bisup::tune
