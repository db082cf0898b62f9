// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far are a model's predictions from a reference's? Kullback-Leibler divergence of the
// next-token distributions, KL(reference || model), on the same windows; perplexity alone hides
// damage.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <bisup/evaluate/perplexity.hpp>
#include <bisup/evaluate/reference_states.hpp>

namespace bisup {

struct Divergence {
  double kl_mean = 0, kl_stderr = 0;  // nats; the error is that of window means
  double kl_p99 = 0;                  // 99th percentile over positions
  double top1_agreement = 0;          // share of positions with the same most probable token
  Perplexity model, reference;
};

namespace detail {

struct PositionDivergence {
  double kl = 0, nll = 0, reference_nll = 0;
  bool same_top = false;
};

inline PositionDivergence compare_position(std::span<const float> reference,
                                           std::span<const float> model, int target) {
  const double p0 = log_sum_exp(reference), q0 = log_sum_exp(model);
  PositionDivergence result;
  for (std::size_t i = 0; i < model.size(); ++i) {
    const double lp = static_cast<double>(reference[i]) - p0,
                 lq = static_cast<double>(model[i]) - q0;
    result.kl += static_cast<double>(std::exp(static_cast<float>(lp))) * (lp - lq);
  }
  const auto top = [](std::span<const float> x) {
    return std::max_element(x.begin(), x.end()) - x.begin();
  };
  result.nll = q0 - static_cast<double>(model[static_cast<std::size_t>(target)]);
  result.reference_nll = p0 - static_cast<double>(reference[static_cast<std::size_t>(target)]);
  result.same_top = top(reference) == top(model);
  return result;
}

// [read, hidden]: found, or computed and added.
inline MatrixRef<const float> states_of(llama::Session& reference, std::span<const int> read,
                                        ReferenceStates* known) {
  if (known == nullptr) return reference.forward(read);
  if (const auto* found = known->find(read)) return found->states.ref();
  const auto states = reference.forward(read);
  Matrix<float> kept(states.rows(), states.cols());
  for (int t = 0; t < states.rows(); ++t) std::ranges::copy(states.row(t), kept.row(t).begin());
  return known->add(read, std::move(kept)).states.ref();
}

inline double mean_of(std::span<const PositionDivergence> positions,
                      double PositionDivergence::*field) {
  double sum = 0;
  for (const auto& p : positions) sum += p.*field;
  return sum / static_cast<double>(positions.size());
}

}  // namespace detail

// Both models read the same ids (the same vocabulary is required). Errors as perplexity(), and
// wrong_shape for different vocabularies. What is in `known` the reference does not compute again;
// what it computes is added.
inline Result<Divergence> divergence(const llama::Model& model, const KvPolicy& policy,
                                     const llama::Model& reference,
                                     const KvPolicy& reference_policy, std::span<const int> ids,
                                     const WindowOptions& options,
                                     ThreadPool& pool = ThreadPool::shared(),
                                     const Progress& progress = {},
                                     ReferenceStates* known = nullptr) {
  if (model.config.vocab_size != reference.config.vocab_size) {
    return Error{Errc::wrong_shape, "the vocabularies have " +
                                        std::to_string(model.config.vocab_size) + " and " +
                                        std::to_string(reference.config.vocab_size) + " tokens"};
  }
  const int positions = std::min(model.config.max_positions, reference.config.max_positions);
  const auto windows = cut_windows(ids.size(), positions, options);
  if (!windows) return windows.error();
  if (auto known = llama::check_ids(ids, model.config); !known) return known.error();
  auto ours = llama::Session::make(model, model.prompt.tokens() + windows->context, policy, pool);
  if (!ours) return ours.error();
  auto theirs = llama::Session::make(reference, reference.prompt.tokens() + windows->context,
                                     reference_policy, pool);
  if (!theirs) return theirs.error();

  Divergence result;
  std::vector<double> window_kl, all_kl;
  std::vector<detail::PositionDivergence> scored;
  Matrix<float> logits, reference_logits;
  long agreements = 0;
  for (int w = 0; w < windows->count; ++w) {
    const auto text = windows->at(ids, w);
    const auto read = behind_prompt(text, model.prompt, options.bos),
               reference_read = behind_prompt(text, reference.prompt, options.bos);
    // What both predict: the end of the window.
    const int positions_scored = windows->scored(std::min(read.size(), reference_read.size()));
    scored.resize(static_cast<std::size_t>(positions_scored));
    const auto targets = text.last(scored.size());
    ours->truncate(0), theirs->truncate(0);
    const auto last = [&](MatrixRef<const float> rows) {
      return rows.rows(rows.rows() - positions_scored - 1, positions_scored);
    };
    const auto hidden = last(ours->forward(read)),
               reference_hidden = last(detail::states_of(*theirs, reference_read, known));
    for (int first = 0; first < positions_scored; first += positions_at_a_time) {
      const int count = std::min(positions_at_a_time, positions_scored - first);
      logits.resize(count, model.config.vocab_size),
          reference_logits.resize(count, model.config.vocab_size);
      ours->logits(hidden.rows(first, count), logits.ref());
      theirs->logits(reference_hidden.rows(first, count), reference_logits.ref());
      pool.parallel_for(count, [&](int t, int) {
        const auto at = static_cast<std::size_t>(first + t);
        scored[at] = detail::compare_position(reference_logits.row(t), logits.row(t), targets[at]);
      });
    }
    for (const auto& p : scored) all_kl.push_back(p.kl), agreements += p.same_top ? 1 : 0;
    window_kl.push_back(detail::mean_of(scored, &detail::PositionDivergence::kl));
    result.model.window_nll.push_back(detail::mean_of(scored, &detail::PositionDivergence::nll));
    result.reference.window_nll.push_back(
        detail::mean_of(scored, &detail::PositionDivergence::reference_nll));
    if (!std::isfinite(window_kl.back())) {
      return Error{Errc::not_finite,
                   "the logits in window " + std::to_string(w) + " are not finite"};
    }
    if (progress && !progress(w + 1, windows->count)) return Error{Errc::interrupted, "stopped"};
  }
  const WindowMean kl = mean_of_windows(window_kl);
  result.kl_mean = kl.mean, result.kl_stderr = kl.standard_error;
  const auto p99 =
      all_kl.begin() + static_cast<std::ptrdiff_t>(0.99 * static_cast<double>(all_kl.size() - 1));
  std::nth_element(all_kl.begin(), p99, all_kl.end());
  result.kl_p99 = *p99;
  result.top1_agreement = static_cast<double>(agreements) / static_cast<double>(all_kl.size());
  for (Perplexity* p : {&result.model, &result.reference}) {
    const WindowMean nll = mean_of_windows(p->window_nll);
    p->nll = nll.mean, p->nll_stderr = nll.standard_error;
    p->context = windows->context, p->windows = windows->count;
    p->tokens = static_cast<long>(all_kl.size());
  }
  return result;
}

}  // namespace bisup
