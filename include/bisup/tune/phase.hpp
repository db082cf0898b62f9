// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is one phase of tuning run? Steps of AdamW with a schedule and a bound on the gradient's
// norm; held-out data before, during and after say which parameters were best, and those are kept:
// a phase never ends worse than it began. A loss that is not finite goes back to the best so far
// with half the rates.

#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/tune/adamw.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/schedule.hpp>

namespace bisup::tune {

struct PhaseOptions {
  int steps = 24;
  int evaluations = 3;  // of held-out data while learning, the last after the last step
  Schedule schedule = {};
  AdamWOptions adamw = {};
  double gradient_norm = 1;  // over all groups
  int recoveries = 3;        // from what is not finite, at most
};

struct PhaseReport {
  double before = 0, best = 0;   // held-out loss
  int best_step = 0;             // steps taken when it was measured; 0: the base was never beaten
  std::vector<double> training;  // loss of each step, penalties included
  std::vector<double> held_out;  // of each evaluation, the first before any step
  int recoveries = 0;
  bool interrupted = false;
};

// What a phase asks of what it tunes.
struct PhaseWork {
  // The loss of step `step`, with gradients in the groups' views (not yet gathered).
  std::function<double(int step)> learn;
  std::function<double()> held_out;                        // with the parameters as they are
  std::function<void(bool weights)> changed = {};          // parameters have; weights too?
  std::function<bool(int step, int steps)> progress = {};  // false stops the phase
};

namespace detail {

template <class T>
using Snapshot = std::vector<std::vector<T>>;

template <class T>
void take(std::span<const ParameterGroup<T>> groups, Snapshot<T>& into) {
  std::size_t i = 0;
  for (const auto& group : groups) {
    for (const auto& view : group.views) {
      if (into.size() == i) into.emplace_back();
      into[i++].assign(view.values.begin(), view.values.end());
    }
  }
}
template <class T>
void put_back(std::span<const ParameterGroup<T>> groups, const Snapshot<T>& from) {
  std::size_t i = 0;
  for (const auto& group : groups) {
    for (const auto& view : group.views) {
      std::copy(from[i].begin(), from[i].end(), view.values.begin());
      ++i;
    }
  }
}

template <class T>
double norm_of(std::span<const ParameterGroup<T>> groups) {
  double squares = 0;
  for (const auto& group : groups) {
    for (const auto& view : group.views) {
      for (const T g : view.gradients) squares += static_cast<double>(g) * static_cast<double>(g);
    }
  }
  return std::sqrt(squares);
}

}  // namespace detail

template <class T>
PhaseReport run_phase(std::span<const ParameterGroup<T>> groups, const PhaseOptions& options,
                      const PhaseWork& work) {
  BISUP_EXPECTS(options.steps >= 0 && options.evaluations >= 1);
  const auto spread = [&] {
    bool weights = false;
    for (const auto& group : groups) {
      if (group.spread) group.spread();
      weights = weights || group.changes_weights;
    }
    if (work.changed) work.changed(weights);
  };
  const auto held_out = [&] {
    const double loss = work.held_out();
    return std::isfinite(loss) ? loss : std::numeric_limits<double>::infinity();
  };

  PhaseReport report;
  detail::Snapshot<T> best;
  spread();
  report.before = report.best = held_out();
  report.held_out.push_back(report.best);
  detail::take(groups, best);
  std::vector<std::vector<AdamW<T>>> optimizers;
  const auto forget = [&] {
    optimizers.clear();
    for (const auto& group : groups) optimizers.emplace_back(group.views.size());
  };
  forget();
  double slower = 1;
  int evaluated = 0;
  for (int step = 0; step < options.steps; ++step) {
    double loss = work.learn(step);
    for (const auto& group : groups) loss += group.gather ? group.gather() : 0;
    report.training.push_back(loss);
    const double norm = detail::norm_of(groups);
    const bool finite = std::isfinite(loss) && std::isfinite(norm);
    if (finite) {
      const double scale = norm > options.gradient_norm ? options.gradient_norm / norm : 1;
      const double rate = slower * options.schedule.at(step, options.steps);
      for (std::size_t g = 0; g < groups.size(); ++g) {
        for (std::size_t v = 0; v < groups[g].views.size(); ++v) {
          const auto& view = groups[g].views[v];
          optimizers[g][v].step(view.values, view.gradients, rate * groups[g].rate, options.adamw,
                                scale);
        }
      }
    } else {
      detail::put_back(groups, best), forget();
      slower /= 2;
    }
    spread();
    if (!finite && ++report.recoveries > options.recoveries) break;
    const bool stop = work.progress && !work.progress(step + 1, options.steps);
    // The evaluations are spread evenly, the last one after the last step.
    if (stop || (step + 1) * options.evaluations / options.steps > evaluated) {
      evaluated = (step + 1) * options.evaluations / options.steps;
      report.held_out.push_back(held_out());
      if (report.held_out.back() < report.best) {
        report.best = report.held_out.back(), report.best_step = step + 1;
        detail::take(groups, best);
      }
    }
    report.interrupted = stop;
    if (stop) break;
  }
  detail::put_back(groups, best);
  spread();
  return report;
}

}  // namespace bisup::tune
