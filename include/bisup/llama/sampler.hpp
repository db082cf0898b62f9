// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which token comes next? Greedy, or drawn from what repetition penalty, temperature, top-k, top-p
// and min-p leave of the distribution, in this order, with a seed.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/random.hpp>
#include <bisup/kernel/vector.hpp>

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
    const auto best = std::find(adjusted_.begin(), adjusted_.end(), largest_of(adjusted_));
    if (best == adjusted_.end()) return 0;  // none is a number
    if (options_.temperature == 0) return static_cast<int>(best - adjusted_.begin());
    // Of the least temperatures the inverse is infinite, and zero times that no number.
    const float inverse = std::min(1 / options_.temperature, std::numeric_limits<float>::max());
    const float most = *best;
    for (float& logit : adjusted_) logit = (logit - most) * inverse;
    vector_kernels().softmax(adjusted_.data(), static_cast<int>(adjusted_.size()));
    return draw(*best);
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

  // adjusted_ holds probabilities. A vocabulary has 100,000 of them and the draw ends among the
  // first few nearly always: only those are sorted that it asks for.
  int draw(float best) {
    const std::vector<float>& p = adjusted_;
    if (!(best > 0)) return 0;  // all are not numbers, as one of the logits was
    found_.clear(), sorted_ = 0, floor_ = std::numeric_limits<float>::infinity();
    double mass = 0;  // of what is kept
    const std::size_t most =
        options_.top_k == 0 ? p.size() : static_cast<std::size_t>(options_.top_k);
    if (most < p.size()) {
      for (std::size_t i = 0; i < most && at(i, best); ++i) mass += p[found_[i]];
    } else {
      mass = sum_of(p);
    }
    std::size_t kept = most;
    if (options_.top_p < 1 || options_.min_p > 0) {
      const double all = mass, least = static_cast<double>(options_.min_p) * best;
      for (kept = 0, mass = 0; kept < most && at(kept, best); mass += p[found_[kept++]]) {
        if (kept > 0 && (mass >= options_.top_p * all || p[found_[kept]] < least)) break;
      }
    }
    double left = random_.uniform() * mass;
    std::size_t i = 0;
    for (; i < kept && at(i, best); ++i) {
      left -= p[found_[i]];
      if (left < 0) return static_cast<int>(found_[i]);
    }
    return static_cast<int>(found_[i - 1]);
  }
  // Eight at a time: one after another they would wait for each other, and with sum and largest
  // that was a twentieth of the time of a token of SmolLM2-135M. What is not a number is no
  // largest.
  template <class T, class Join>
  static T joined(const std::vector<float>& p, T from, Join join) {
    std::array<T, 8> parts;
    parts.fill(from);
    std::size_t i = 0;
    for (; i + 8 <= p.size(); i += 8) {
      for (std::size_t j = 0; j < 8; ++j) parts[j] = join(parts[j], p[i + j]);
    }
    for (; i < p.size(); ++i) parts[0] = join(parts[0], p[i]);
    for (std::size_t j = 1; j < 8; ++j) parts[0] = join(parts[0], parts[j]);
    return parts[0];
  }
  static float largest_of(const std::vector<float>& p) {
    return joined(p, -std::numeric_limits<float>::infinity(),
                  [](float a, float b) { return b > a ? b : a; });
  }
  static double sum_of(const std::vector<float>& p) {
    return joined(p, 0.0, [](double a, auto b) { return a + b; });
  }
  // Is there an i-th most probable token? Then found_[i] is it. Those of no probability are none.
  bool at(std::size_t i, float best) {
    const auto place = [this](std::size_t n) {
      return found_.begin() + static_cast<std::ptrdiff_t>(n);
    };
    while (i >= sorted_) {
      if (sorted_ < found_.size()) {
        const std::size_t end =
            std::min(found_.size(), sorted_ + std::max(sorted_, std::size_t{64}));
        std::partial_sort(place(sorted_), place(end), found_.end(), [this](auto a, auto b) {
          return adjusted_[a] > adjusted_[b] || (adjusted_[a] == adjusted_[b] && a < b);
        });
        sorted_ = end;
      } else if (floor_ > 0) {
        const float above = floor_;
        floor_ = std::min(above, best) / 32;
        if (floor_ < best * 1e-6f) floor_ = 0;
        for (std::size_t id = 0; id < adjusted_.size(); ++id) {
          if (adjusted_[id] < above && adjusted_[id] >= floor_ && adjusted_[id] > 0)
            found_.push_back(id);
        }
      } else {
        return false;
      }
    }
    return true;
  }

  SamplingOptions options_;
  Random random_;
  std::vector<float> adjusted_;     // logits, then probabilities
  std::vector<std::size_t> found_;  // tokens down to the probability floor_, the first sorted_ of
  std::size_t sorted_ = 0;          // them in order
  float floor_ = 0;
  std::vector<int> seen_;
};

}  // namespace bisup::llama
