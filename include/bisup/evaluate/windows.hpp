// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// On what is a model judged? The field's protocol (docs/evaluation.md): the text tokenized once,
// cut into windows that do not overlap, every position but the first of a window predicted; the
// rest is dropped.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

struct WindowOptions {
  int context = 0;              // tokens a window; 0: min(2048, the model's positions)
  int windows = 0;              // at most so many; 0: all
  int score_from = 0;           // positions of a window before it are read, not scored
  std::optional<int> bos = {};  // that the tokenizer puts before a text: not said twice
};

// Called with (windows done, windows in all); returning false stops with Errc::interrupted.
using Progress = std::function<bool(int, int)>;

struct Windows {
  int context = 0, count = 0, score_from = 0;

  // Positions of a window that are scored, the last ones before its end, where `read` of its tokens
  // are read.
  [[nodiscard]] int scored(std::size_t read) const {
    return std::min(static_cast<int>(read), context - score_from) - 1;
  }

  [[nodiscard]] std::span<const int> at(std::span<const int> ids, int window) const {
    return ids.subspan(static_cast<std::size_t>(window) * static_cast<std::size_t>(context),
                       static_cast<std::size_t>(context));
  }
};

// A window as it follows a stored prompt: as it is, but that nothing is said twice
// (cache/prompt_cache.hpp). The tokens that are left out are not scored.
[[nodiscard]] inline std::span<const int> behind_prompt(std::span<const int> window,
                                                        const PromptCache& prompt,
                                                        std::optional<int> bos) {
  const auto rest = after_prompt(window, prompt, bos);
  return rest.size() < 2 ? window : rest;
}

// Errors: too_short (not one whole window), out_of_range (a context the model cannot hold, or one
// of which nothing is scored).
[[nodiscard]] inline Result<Windows> cut_windows(std::size_t tokens, int max_positions,
                                                 const WindowOptions& options) {
  const int context = options.context == 0 ? std::min(2048, max_positions) : options.context;
  if (context < 2 || context > max_positions) {
    return Error{Errc::out_of_range, "a window of " + std::to_string(context) +
                                         " tokens; the model has " + std::to_string(max_positions) +
                                         " positions and a window needs two"};
  }
  if (options.score_from < 0 || options.score_from > context - 2) {
    return Error{Errc::out_of_range, "a window of " + std::to_string(context) +
                                         " tokens is scored from position " +
                                         std::to_string(options.score_from)};
  }
  const auto whole =
      static_cast<int>(std::min<std::size_t>(tokens / static_cast<std::size_t>(context), 1 << 30));
  if (whole == 0) {
    return Error{Errc::too_short, "the text has " + std::to_string(tokens) +
                                      " tokens, one window has " + std::to_string(context)};
  }
  return Windows{context, options.windows == 0 ? whole : std::min(whole, options.windows),
                 options.score_from};
}

// Mean of window means with its standard error: their deviation / sqrt(windows); NaN for one
// window.
struct WindowMean {
  double mean = 0, standard_error = std::numeric_limits<double>::quiet_NaN();
};

[[nodiscard]] inline WindowMean mean_of_windows(std::span<const double> means) {
  WindowMean result;
  const double n = static_cast<double>(means.size());
  for (const double m : means) result.mean += m / n;
  if (means.size() < 2) return result;
  double squares = 0;
  for (const double m : means) squares += (m - result.mean) * (m - result.mean);
  result.standard_error = std::sqrt(squares / (n - 1) / n);
  return result;
}

// log sum exp of one row of logits.
[[nodiscard]] inline double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += static_cast<double>(std::exp(l - largest));
  return static_cast<double>(largest) + std::log(sum);
}

// Logits are made for so many positions at a time: 128 rows of a 150,000-token vocabulary are 77
// MB.
inline constexpr int positions_at_a_time = 128;

}  // namespace bisup
