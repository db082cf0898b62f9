// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How surprised is a model by a text? Perplexity, exp of the mean negative log-likelihood in nats a
// token, by the protocol of windows.hpp.

#include <cmath>
#include <span>
#include <vector>

#include <bisup/core/thread_pool.hpp>
#include <bisup/evaluate/windows.hpp>

namespace bisup {

struct Perplexity {
  double nll = 0, nll_stderr = 0;  // nats a token; the error is NaN for one window
  std::vector<double> window_nll;
  int context = 0, windows = 0;
  long tokens = 0;  // scored
  [[nodiscard]] double perplexity() const { return std::exp(nll); }
};

// Negative log-likelihoods of targets given the hidden states before them.
inline void negative_log_likelihood(llama::Session& session, MatrixRef<const float> hidden,
                                    std::span<const int> targets, Matrix<float>& logits,
                                    std::span<double> nll, ThreadPool& pool) {
  logits.resize(hidden.rows(), session.model().config.vocab_size);
  session.logits(hidden, logits.ref());
  pool.parallel_for(hidden.rows(), [&](int t, int) {
    const auto at = static_cast<std::size_t>(t);
    const std::span<const float> row = logits.row(t);
    nll[at] = log_sum_exp(row) - static_cast<double>(row[static_cast<std::size_t>(targets[at])]);
  });
}

// ids: the whole text, its BOS included if the tokenizer adds one. A stored prompt stands before
// every window, which keeps its tokens and targets at later positions; it is not scored, nor said
// twice where a window begins with it or with its BOS. Errors: too_short, out_of_range (a window or
// a token beyond the model), not_finite (the model's logits), interrupted, and those of
// Session::make.
inline Result<Perplexity> perplexity(const llama::Model& model, std::span<const int> ids,
                                     const WindowOptions& options, const KvPolicy& policy,
                                     ThreadPool& pool = ThreadPool::shared(),
                                     const Progress& progress = {}) {
  const auto windows = cut_windows(ids.size(), model.config.max_positions, options);
  if (!windows) return windows.error();
  if (auto known = llama::check_ids(ids, model.config); !known) return known.error();
  auto session =
      llama::Session::make(model, model.prompt.tokens() + windows->context, policy, pool);
  if (!session) return session.error();
  Perplexity result;
  result.context = windows->context, result.windows = windows->count;
  Matrix<float> logits;
  std::vector<double> nll;
  for (int w = 0; w < windows->count; ++w) {
    const auto window = behind_prompt(windows->at(ids, w), model.prompt, options.bos);
    const int scored = windows->scored(window.size());
    nll.resize(static_cast<std::size_t>(scored));
    session->truncate(0);
    const auto read = session->forward(window);
    const auto hidden = read.rows(read.rows() - scored - 1, scored);
    const auto targets = window.last(nll.size());
    for (int first = 0; first < scored; first += positions_at_a_time) {
      const int count = std::min(positions_at_a_time, scored - first);
      const auto from = static_cast<std::size_t>(first), many = static_cast<std::size_t>(count);
      negative_log_likelihood(*session, hidden.rows(first, count), targets.subspan(from, many),
                              logits, std::span(nll).subspan(from, many), pool);
    }
    double sum = 0;
    for (const double x : nll) sum += x;
    if (!std::isfinite(sum)) {
      return Error{Errc::not_finite,
                   "the model's logits in window " + std::to_string(w) + " are not finite"};
    }
    result.window_nll.push_back(sum / static_cast<double>(nll.size()));
    result.tokens += static_cast<long>(nll.size());
    if (progress && !progress(w + 1, windows->count)) return Error{Errc::interrupted, "stopped"};
  }
  const WindowMean mean = mean_of_windows(result.window_nll);
  result.nll = mean.mean, result.nll_stderr = mean.standard_error;
  return result;
}

}  // namespace bisup
