// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is one phase of tuning run? Steps of AdamW with a schedule and a bound on the gradient's
// norm; held-out data before, during and after say which parameters were best, and those are kept:
// a phase never ends worse than it began. A loss that is not finite goes back to the best so far
// with half the rates.

#include <algorithm>
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
  // Where the held-out loss begins below this, rates are in proportion to its square. AdamW's steps
  // are as long as their rate says however little there is to gain, and what one crop says of it is
  // mostly chance: below, that is what parameters would follow. At a loss of 0 no step is taken.
  double full_rate_loss = 0;
};

struct PhaseReport {
  double before = 0, best = 0;   // held-out loss
  int best_step = 0;             // steps taken when it was measured; 0: the base was never beaten
  std::vector<double> training;  // loss of each step, penalties included
  std::vector<double> held_out;  // of each evaluation, the first before any step
  double rates = 1;              // the share of them that the loss before left
  int recoveries = 0;
  bool interrupted = false;

  // Mean training loss between one evaluation and the next, one fewer than held_out: how far below
  // it they end is what was learned by heart.
  [[nodiscard]] std::vector<double> training_means() const {
    std::vector<double> means;
    const std::size_t parts = held_out.empty() ? 0 : held_out.size() - 1;
    for (std::size_t i = 0; i < parts; ++i) {
      const auto first = training.size() * i / parts, last = training.size() * (i + 1) / parts;
      double sum = 0;
      for (std::size_t step = first; step < last; ++step) sum += training[step];
      means.push_back(sum / static_cast<double>(std::max<std::size_t>(last - first, 1)));
    }
    return means;
  }
};

// What a phase asks of what it tunes.
struct PhaseWork {
  // The loss of step `step`, with gradients in the groups' views (not yet gathered).
  std::function<double(int step)> learn;
  std::function<double()> held_out;                        // with the parameters as they are
  std::function<void(bool weights)> changed = {};          // parameters have; weights too?
  std::function<bool(int step, int steps)> progress = {};  // false stops the phase
  // Whether what comes from step `step` on follows from a state alone; empty: always.
  std::function<bool(int step)> whole = {};
};

// A phase in the middle of its steps: enough to go on and end with the same bits. Runs of numbers
// are those of all views, one after another.
template <class T>
struct PhaseState {
  int steps = 0;                 // taken
  int evaluated = 0;             // how often held-out data have been asked meanwhile
  int updates = 0;               // by the optimizer since it last forgot
  double slower = 1;             // the rates' share that the loss before and recoveries left
  std::vector<T> values, best;   // the parameters, and the best of them so far
  std::vector<T> first, second;  // AdamW's means; empty before the first update
  PhaseReport report = {};
};

// Where a phase is kept while it runs.
template <class T>
struct PhaseMemory {
  int every = 0;  // steps from one state to the next, at least; 0: none is made
  std::function<bool(const PhaseState<T>&)> save = {};  // false stops the phase
  const PhaseState<T>* begun = nullptr;                 // which to go on with
};

namespace detail {

template <class T>
[[nodiscard]] std::size_t parameters(std::span<const ParameterGroup<T>> groups) {
  std::size_t count = 0;
  for (const auto& group : groups) count += group.size();
  return count;
}
template <class T>
void take(std::span<const ParameterGroup<T>> groups, std::vector<T>& into) {
  into.clear();
  for (const auto& group : groups) {
    for (const auto& view : group.views)
      into.insert(into.end(), view.values.begin(), view.values.end());
  }
}
template <class T>
void put_back(std::span<const ParameterGroup<T>> groups, const std::vector<T>& from) {
  BISUP_EXPECTS(from.size() == parameters(groups));
  auto next = from.begin();
  for (const auto& group : groups) {
    for (const auto& view : group.views) {
      const auto end = next + static_cast<std::ptrdiff_t>(view.values.size());
      std::copy(next, end, view.values.begin());
      next = end;
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

// One AdamW for each view of each group.
template <class T>
class Optimizers {
 public:
  explicit Optimizers(std::span<const ParameterGroup<T>> groups) : groups_(groups) { forget(); }

  void forget() {
    all_.clear();
    for (const auto& group : groups_) all_.emplace_back(group.views.size());
  }
  void step(double rate, const AdamWOptions& options, double scale) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (std::size_t v = 0; v < groups_[g].views.size(); ++v) {
        const auto& view = groups_[g].views[v];
        all_[g][v].step(view.values, view.gradients, rate * groups_[g].rate, options, scale);
      }
    }
  }
  void take(PhaseState<T>& state) const {
    state.first.clear(), state.second.clear(), state.updates = 0;
    for (const auto& group : all_) {
      for (const auto& one : group) {
        state.first.insert(state.first.end(), one.first().begin(), one.first().end());
        state.second.insert(state.second.end(), one.second().begin(), one.second().end());
        state.updates = one.steps();
      }
    }
  }
  void resume(const PhaseState<T>& state) {
    forget();
    if (state.updates == 0) return;
    BISUP_EXPECTS(state.first.size() == parameters(groups_) &&
                  state.second.size() == state.first.size());
    std::size_t at = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (std::size_t v = 0; v < groups_[g].views.size(); ++v) {
        const std::size_t count = groups_[g].views[v].values.size();
        all_[g][v].resume(std::span(state.first).subspan(at, count),
                          std::span(state.second).subspan(at, count), state.updates);
        at += count;
      }
    }
  }

 private:
  std::span<const ParameterGroup<T>> groups_;
  std::vector<std::vector<AdamW<T>>> all_;
};

}  // namespace detail

// Whether a state is one of these groups; run_phase requires it.
template <class T>
[[nodiscard]] bool belongs(const PhaseState<T>& state, std::span<const ParameterGroup<T>> groups) {
  const std::size_t count = detail::parameters(groups), means = state.updates == 0 ? 0 : count;
  return state.values.size() == count && state.best.size() == count &&
         state.first.size() == means && state.second.size() == means && state.steps >= 0;
}

template <class T>
PhaseReport run_phase(std::span<const ParameterGroup<T>> groups, const PhaseOptions& options,
                      const PhaseWork& work, const PhaseMemory<T>& memory = {}) {
  BISUP_EXPECTS(options.steps >= 0 && options.evaluations >= 1);
  const auto spread = [&](bool anew) {
    bool weights = false;
    for (const auto& group : groups) {
      if (anew && group.renew) {
        group.renew();
      } else if (group.spread) {
        group.spread();
      }
      weights = weights || group.changes_weights;
    }
    if (work.changed) work.changed(weights);
  };
  const auto held_out = [&] {
    const double loss = work.held_out();
    return std::isfinite(loss) ? loss : std::numeric_limits<double>::infinity();
  };

  PhaseState<T> state;
  PhaseReport& report = state.report;
  detail::Optimizers<T> optimizers(groups);
  if (memory.begun != nullptr) {
    BISUP_EXPECTS(belongs(*memory.begun, groups));
    state = *memory.begun;
    detail::put_back(groups, state.values), optimizers.resume(state);
    spread(true);
  } else {
    spread(false);
    report.before = report.best = held_out();
    report.held_out.push_back(report.best);
    detail::take(groups, state.best);
  }
  if (report.before < options.full_rate_loss) {
    const double part = report.before / options.full_rate_loss;
    report.rates = part * part;
  }
  if (memory.begun == nullptr) state.slower = report.rates;
  const auto next_kept = [&] { return (state.steps / memory.every + 1) * memory.every; };
  int due = memory.every > 0 ? next_kept() : options.steps + 1;
  while (report.rates > 0 && state.steps < options.steps) {
    double loss = work.learn(state.steps);
    for (const auto& group : groups) loss += group.gather ? group.gather() : 0;
    report.training.push_back(loss);
    const double norm = detail::norm_of(groups);
    const bool finite = std::isfinite(loss) && std::isfinite(norm);
    if (finite) {
      const double scale = norm > options.gradient_norm ? options.gradient_norm / norm : 1;
      const double rate = state.slower * options.schedule.at(state.steps, options.steps);
      optimizers.step(rate, options.adamw, scale);
    } else {
      detail::put_back(groups, state.best), optimizers.forget();
      state.slower /= 2;
    }
    ++state.steps;
    const bool kept = state.steps >= due && (!work.whole || work.whole(state.steps));
    if (kept) due = next_kept();
    spread(kept || !finite);  // what overflowed cannot be multiplied back
    if (!finite && ++report.recoveries > options.recoveries) break;
    bool stop = work.progress && !work.progress(state.steps, options.steps);
    // The evaluations are spread evenly, the last one after the last step.
    if (stop || state.steps * options.evaluations / options.steps > state.evaluated) {
      state.evaluated = state.steps * options.evaluations / options.steps;
      report.held_out.push_back(held_out());
      if (report.held_out.back() < report.best) {
        report.best = report.held_out.back(), report.best_step = state.steps;
        detail::take(groups, state.best);
      }
    }
    if (kept && !stop && memory.save) {
      detail::take(groups, state.values), optimizers.take(state);
      stop = !memory.save(state);
    }
    report.interrupted = stop;
    if (stop) break;
  }
  detail::put_back(groups, state.best);
  spread(true);
  return report;
}

}  // namespace bisup::tune
