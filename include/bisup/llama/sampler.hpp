// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which token comes next? Greedy, or drawn from what repetition penalty, temperature, top-k, top-p
// and min-p leave of the distribution, in this order, with a seed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/random.hpp>

namespace bisup::llama {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // keep the k most probable; 0: all
  float top_p = 1;        // keep the fewest tokens that hold this mass
  float min_p = 0;        // keep tokens of at least this share of the best one's probability
  float repetition_penalty =
      1;  // divides positive, multiplies negative logits of tokens seen (CTRL, 2019)
  int repetition_window = 64;  // how far back "seen" reaches
  std::uint64_t seed = 0;

  [[nodiscard]] bool valid() const {
    return temperature >= 0 && top_k >= 0 && top_p > 0 && top_p <= 1 && min_p >= 0 && min_p <= 1 &&
           repetition_penalty > 0 && repetition_window >= 0;
  }
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
    BISUP_EXPECTS(options.valid());
  }

  // The next token after `history`. logits: [vocabulary]. Ties go to the lower id.
  [[nodiscard]] int sample(std::span<const float> logits, std::span<const int> history = {}) {
    BISUP_EXPECTS(!logits.empty());
    adjusted_.assign(logits.begin(), logits.end());
    penalize(history);
    if (options_.temperature == 0) {
      return static_cast<int>(std::max_element(adjusted_.begin(), adjusted_.end()) -
                              adjusted_.begin());
    }
    candidates_.resize(adjusted_.size());
    for (std::size_t i = 0; i < candidates_.size(); ++i) candidates_[i] = static_cast<int>(i);
    const auto before = [this](int a, int b) {
      const float x = adjusted_[static_cast<std::size_t>(a)],
                  y = adjusted_[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    };
    const std::size_t kept =
        options_.top_k == 0
            ? candidates_.size()
            : std::min(candidates_.size(), static_cast<std::size_t>(options_.top_k));
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                      candidates_.end(), before);
    candidates_.resize(kept);
    return draw();
  }

 private:
  void penalize(std::span<const int> history) {
    if (options_.repetition_penalty == 1) return;
    const auto window =
        std::min(history.size(), static_cast<std::size_t>(options_.repetition_window));
    seen_.assign(history.end() - static_cast<std::ptrdiff_t>(window), history.end());
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    for (const int id : seen_) {
      if (id < 0 || static_cast<std::size_t>(id) >= adjusted_.size()) continue;
      float& logit = adjusted_[static_cast<std::size_t>(id)];
      logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }

  // candidates_ is sorted by falling logit.
  int draw() {
    const double best = adjusted_[static_cast<std::size_t>(candidates_[0])];
    weights_.resize(candidates_.size());
    double total = 0;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const double logit = adjusted_[static_cast<std::size_t>(candidates_[i])];
      weights_[i] = std::exp((logit - best) / options_.temperature);  // the best one's is 1
      total += weights_[i];
    }
    double mass = 0;
    std::size_t kept = 0;
    while (kept < weights_.size() &&
           (kept == 0 || (mass < options_.top_p * total && weights_[kept] >= options_.min_p))) {
      mass += weights_[kept++];
    }
    double left = random_.uniform() * mass;
    for (std::size_t i = 0; i < kept; ++i) {
      left -= weights_[i];
      if (left < 0) return candidates_[i];
    }
    return candidates_[kept - 1];
  }

  SamplingOptions options_;
  Random random_;
  std::vector<float> adjusted_;
  std::vector<int> candidates_, seen_;
  std::vector<double> weights_;
};

}  // namespace bisup::llama
