// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tokens should a model know by heart? Those that draw its outliers, by the rule of
// PrefixQuant (arXiv 2410.05265): once they stand before every text, no token of the text has them.
// prompt_recorder.hpp reads them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/samples.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

// The largest magnitude of each token of a sample among what the down projections read.
struct TokenMagnitudes {
  std::vector<int> ids;
  Matrix<float> largest;  // [layers, tokens]
};

struct OutlierRule {
  int samples = 64, length = 512;  // at most, of the calibration text
  float ratio = 64;                // an outlier is above so many times its layer's median
};

struct OutlierTokens {
  std::vector<int> prompt;  // empty: the model has no outliers
  double of_a_sample = 0;   // outliers of a sample, on average, in the layer that has the most
};

// Errors: those of Session::make, not_finite.
[[nodiscard]] inline Result<std::vector<TokenMagnitudes>> token_magnitudes(
    const llama::Model& model, const Samples& samples, const OutlierRule& rule,
    ThreadPool& pool = ThreadPool::shared()) {
  std::vector<TokenMagnitudes> all;
  for (const std::vector<int>& crop : samples.crops) {
    if (static_cast<int>(all.size()) == rule.samples) break;
    const auto tokens = std::min(crop.size(), static_cast<std::size_t>(rule.length));
    auto session = llama::Session::make(model, static_cast<int>(tokens), {}, pool);
    if (!session) return session.error();
    TokenMagnitudes sample{{crop.begin(), crop.begin() + static_cast<std::ptrdiff_t>(tokens)}, {}};
    sample.largest.resize(model.config.layers, static_cast<int>(tokens));
    int layer = 0;
    bool finite = true;
    (void)session->forward(sample.ids, [&](llama::Site site, MatrixRef<const float> x) {
      if (site != llama::Site::down_input) return;
      for (int t = 0; t < x.rows(); ++t) {
        float largest = 0;
        for (const float v : x.row(t)) {
          largest = std::max(largest, std::fabs(v));
          finite = finite && std::isfinite(v);
        }
        sample.largest(layer, t) = largest;
      }
      ++layer;
    });
    if (!finite) return Error{Errc::not_finite, "the float model's activations are not finite"};
    all.push_back(std::move(sample));
  }
  return all;
}

// As many tokens as a sample has outliers in the layer that has the most of them: `start`, which is
// what stands first in a text, at the end, and before it those that are outliers most often
// elsewhere than in the first place.
[[nodiscard]] inline OutlierTokens outlier_tokens(std::span<const TokenMagnitudes> samples,
                                                  std::optional<int> start, float ratio) {
  OutlierTokens found;
  if (samples.empty()) return found;
  std::map<int, long> times;
  for (int layer = 0; layer < samples.front().largest.rows(); ++layer) {
    std::vector<float> all;
    for (const TokenMagnitudes& s : samples) {
      const auto row = s.largest.row(layer);
      all.insert(all.end(), row.begin(), row.end());
    }
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    const float bound = ratio * *middle;
    long outliers = 0;
    for (const TokenMagnitudes& s : samples) {
      for (std::size_t t = 0; t < s.ids.size(); ++t) {
        if (!(s.largest(layer, static_cast<int>(t)) > bound)) continue;
        ++outliers;
        if (t > 0) ++times[s.ids[t]];
      }
    }
    found.of_a_sample = std::max(
        found.of_a_sample, static_cast<double>(outliers) / static_cast<double>(samples.size()));
  }
  const auto count = static_cast<std::size_t>(std::ceil(found.of_a_sample));
  std::vector<std::pair<int, long>> often(times.begin(), times.end());
  std::stable_sort(often.begin(), often.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [id, many] : often) {
    if (found.prompt.size() + (start ? 1 : 0) >= count) break;
    if (id != start) found.prompt.push_back(id);
  }
  if (start && count > 0) found.prompt.push_back(*start);
  return found;
}

}  // namespace bisup
