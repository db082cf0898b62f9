// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/tune/phase.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup::tune;

// Two numbers whose training loss is their squared distance from `goal`.
struct Bowl {
  std::vector<double> x = {3, -2}, g = {0, 0}, goal = {0, 0};
  ParameterGroup<double> group;
  int changes = 0;

  explicit Bowl(double rate) {
    group.name = "bowl", group.rate = rate, group.changes_weights = true;
    group.add(std::span<double>(x), std::span<const double>(g));
  }
  double loss() const { return std::pow(x[0] - goal[0], 2) + std::pow(x[1] - goal[1], 2); }
  double learn() {
    g = {2 * (x[0] - goal[0]), 2 * (x[1] - goal[1])};
    return loss();
  }
  PhaseReport run(const PhaseOptions& options, PhaseWork work) {
    work.changed = [this](bool weights) { changes += weights ? 1 : 0; };
    return run_phase<double>({&group, 1}, options, work);
  }
};

TEST_CASE("a phase descends and reports what it saw") {
  Bowl bowl(0.5);
  const auto report = bowl.run({.steps = 30, .evaluations = 4},
                               {[&](int) { return bowl.learn(); }, [&] { return bowl.loss(); }});
  CHECK(report.before == 13);
  CHECK(report.best < 1);
  CHECK(report.best == bowl.loss());
  CHECK(report.training.size() == 30);
  CHECK(report.held_out.size() == 5);
  CHECK(report.recoveries == 0);
  CHECK(bowl.changes == 32);  // the start, each step, the best put back
}

TEST_CASE("training losses are told by the evaluations between which they were seen") {
  PhaseReport report;
  CHECK(report.training_means().empty());
  report.training = {9, 7, 5, 3, 2, 1}, report.held_out = {10, 6, 4, 4};
  CHECK(report.training_means() == std::vector<double>{8, 4, 1.5});
}

TEST_CASE("a phase never ends worse than it began, and ends at its best") {
  Bowl away(0.5);
  away.goal = {100, 100};  // training pulls away from what held-out data want
  const auto held_out = [&] { return std::fabs(away.x[0] - 3) + std::fabs(away.x[1] + 2); };
  const auto report = away.run({.steps = 9}, {[&](int) { return away.learn(); }, held_out});
  CHECK(report.best == 0);
  CHECK(report.best_step == 0);
  CHECK(away.x == std::vector<double>{3, -2});

  Bowl past(1);  // passes the best on its way
  past.goal = {-50, -2};
  const auto turned =
      past.run({.steps = 20, .evaluations = 20, .schedule = {0, 1}},
               {[&](int) { return past.learn(); }, [&] { return std::fabs(past.x[0]); }});
  CHECK(turned.best_step > 0);
  CHECK(turned.best_step < 20);
  CHECK(std::fabs(past.x[0]) == turned.best);
}

TEST_CASE(
    "a loss that is not finite returns to the best with half the rates, three times at most") {
  Bowl bowl(0.1);
  std::vector<double> before_step;
  const auto report = bowl.run({.steps = 40, .evaluations = 40, .schedule = {0, 1}},
                               {[&](int step) {
                                  before_step.push_back(bowl.x[0]);
                                  bowl.learn();
                                  return step == 5 ? std::nan("") : bowl.loss();
                                },
                                [&] { return bowl.loss(); }});
  CHECK(report.recoveries == 1);
  CHECK(before_step[6] == before_step[5]);  // the best was the last one
  // The first step of an optimizer that was reset has the length of its rate.
  CHECK(before_step[6] - before_step[7] == Approx(0.05).epsilon(1e-6));  // epsilon is 1e-8
  CHECK(report.best < report.before);

  Bowl broken(0.1);
  const auto given_up =
      broken.run({.steps = 40}, {[&](int) {
                                   broken.g = {std::numeric_limits<double>::infinity(), 0};
                                   return 1.0;
                                 },
                                 [&] { return broken.loss(); }});
  CHECK(given_up.recoveries == 4);
  CHECK(given_up.training.size() == 4);
  CHECK(broken.x == std::vector<double>{3, -2});
}

TEST_CASE("where there is less to gain a phase learns slower and says so") {
  const auto first_step = [](double full_rate_loss) {
    Bowl bowl(0.1);
    double moved = 0;
    const auto report = bowl.run({.steps = 2, .schedule = {0, 1}, .full_rate_loss = full_rate_loss},
                                 {[&](int step) {
                                    if (step == 1) moved = 3 - bowl.x[0];
                                    return bowl.learn();
                                  },
                                  [&] { return bowl.loss(); }});
    CHECK(report.rates == Approx(std::min(1.0, std::pow(13 / full_rate_loss, 2))));
    return moved;
  };
  // It begins at 13; the first step of AdamW has the length of its rate, but for its epsilon.
  CHECK(first_step(0) == Approx(0.1).epsilon(1e-6));
  CHECK(first_step(13) == Approx(0.1).epsilon(1e-6));
  CHECK(first_step(26) == Approx(0.025).epsilon(1e-6));
}

TEST_CASE("where there is nothing to gain a phase takes no step") {
  Bowl there(0.1);
  there.goal = there.x;
  const auto report = there.run({.steps = 9, .full_rate_loss = 1},
                                {[&](int) { return there.learn(); }, [&] { return there.loss(); }});
  CHECK(report.training.empty());
  CHECK(report.held_out == std::vector<double>{0});
}

TEST_CASE("held-out data that are not finite are never the best") {
  Bowl bowl(0.5);
  int calls = 0;
  const auto report = bowl.run({.steps = 6, .evaluations = 6},
                               {[&](int) { return bowl.learn(); },
                                [&] { return ++calls % 2 == 0 ? std::nan("") : bowl.loss(); }});
  CHECK(std::isfinite(report.best));
  CHECK(report.best == bowl.loss());
}

TEST_CASE("the norm of all gradients together is bounded before the optimizer sees them") {
  Bowl bowl(1);
  bowl.goal = {-1e6, -2};
  // With epsilon far above the bounded gradient a step is rate * g / epsilon.
  const PhaseOptions options{.steps = 1,
                             .evaluations = 1,
                             .adamw = {.beta1 = 0, .beta2 = 0, .epsilon = 1e6},
                             .gradient_norm = 2};
  const auto report =
      bowl.run(options, {[&](int) { return bowl.learn(); }, [&] { return bowl.x[0]; }});
  CHECK(report.best == Approx(3 - 2 / 1e6).epsilon(1e-9));  // 2 / (1e6 + 2)
}

TEST_CASE("penalties are part of the loss, and a caller may stop a phase") {
  Bowl bowl(0.5);
  bowl.group.gather = [&] { return bowl.g[0] += 1, 10.0; };
  PhaseWork work{[&](int) { return bowl.learn(); }, [&] { return bowl.loss(); }};
  work.progress = [](int step, int steps) { return steps == 8 && step < 3; };
  const auto report = bowl.run({.steps = 8, .evaluations = 1}, work);
  CHECK(report.interrupted);
  CHECK(report.training == std::vector<double>{23, report.training[1], report.training[2]});
  CHECK(report.held_out.size() == 2);  // what was learned until then is judged too
}

TEST_CASE("parameters are spread anew after what is not finite, at states and at the end") {
  Bowl bowl(0.1);
  int spreads = 0, renewals = 0;
  bowl.group.spread = [&] { ++spreads; };
  bowl.group.renew = [&] { ++renewals; };
  PhaseWork work{[&](int step) {
                   const double loss = bowl.learn();
                   return step == 1 ? std::numeric_limits<double>::infinity() : loss;
                 },
                 [&] { return bowl.loss(); }};
  (void)run_phase<double>({&bowl.group, 1}, {.steps = 8}, work, {.every = 4});
  CHECK(spreads == 6);   // the start, and steps 1, 3, 5, 6, 7
  CHECK(renewals == 4);  // step 2 is not finite, 4 and 8 are states, and the best is put back
}

TEST_CASE("a phase that is stopped at any state and begun again ends with the same bits") {
  const PhaseOptions options{.steps = 23, .evaluations = 5, .full_rate_loss = 100};
  // Step 9 is not finite, so that recoveries and forgotten means are part of states.
  const auto run = [&](Bowl& bowl, const PhaseMemory<double>& memory) {
    bowl.goal = {-1, 4};
    PhaseWork work{[&](int step) {
                     const double loss = bowl.learn();
                     return step == 9 ? std::numeric_limits<double>::quiet_NaN() : loss;
                   },
                   [&] { return bowl.loss(); }};
    return run_phase<double>({&bowl.group, 1}, options, work, memory);
  };
  std::vector<PhaseState<double>> states;
  Bowl whole(0.3);
  const auto report = run(whole, {.every = 3, .save = [&](const PhaseState<double>& state) {
                                    states.push_back(state);
                                    return true;
                                  }});
  REQUIRE(states.size() == 7);
  for (const auto& state : states) {
    Bowl again(0.3);
    const auto rest = run(again, {.every = 3, .begun = &state});
    CAPTURE(state.steps);
    CHECK(again.x == whole.x);
    CHECK(rest.training.size() == report.training.size());
    CHECK(rest.held_out == report.held_out);
    CHECK(rest.best == report.best);
    CHECK(rest.best_step == report.best_step);
    CHECK(rest.rates == report.rates);
    CHECK(rest.recoveries == 1);
  }
  Bowl stopped(0.3);
  const auto first = run(stopped, {.every = 3, .save = [](const auto&) { return false; }});
  CHECK(first.interrupted);
  CHECK(first.training.size() == 3);
  PhaseState<double> other = states[0];
  other.values.push_back(0);
  CHECK(belongs<double>(states[0], {&stopped.group, 1}));
  CHECK_FALSE(belongs<double>(other, {&stopped.group, 1}));
}

TEST_CASE("a state waits for a step from which it is all there is") {
  const auto states_of = [](int begun_at) {
    std::vector<int> kept;
    Bowl bowl(0.3);
    PhaseWork work{[&](int) { return bowl.learn(); }, [&] { return bowl.loss(); }};
    work.whole = [](int step) { return step % 5 == 0; };
    PhaseState<double> begun;
    const auto save = [&](const PhaseState<double>& state) {
      kept.push_back(state.steps);
      if (state.steps == begun_at) begun = state;
      return true;
    };
    const PhaseOptions options{.steps = 30};
    (void)run_phase<double>({&bowl.group, 1}, options, work, {.every = 4, .save = save});
    if (begun_at == 0) return kept;
    kept.clear();
    (void)run_phase<double>({&bowl.group, 1}, options, work,
                            {.every = 4, .save = save, .begun = &begun});
    return kept;
  };
  // Due from 4, 8, 12, 16, 24, 28 on.
  CHECK(states_of(0) == std::vector<int>{5, 10, 15, 20, 25, 30});
  CHECK(states_of(15) == std::vector<int>{20, 25, 30});
}

}  // namespace
