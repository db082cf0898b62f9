// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/end_to_end.hpp>
#include <numeric>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

constexpr int vocabulary = 37;

// Two or three blocks with codes for weights, a head, and teachers that are other hidden states.
template <class T>
struct Model {
  std::vector<SimulatedBlock<T>> blocks;
  small::Angles<T> angles{small::prompt};
  std::vector<T> final_norm;
  Matrix<T> head, teacher_head;
  std::vector<Matrix<T>> embedded, teachers;
  std::vector<std::vector<int>> ids;
  std::vector<TextSample<T>> training, held_out;

  explicit Model(int count) {
    Random random(6);
    for (int i = 0; i < count; ++i) {
      blocks.push_back(small::block<T>({.frozen_weights = true, .smoothing = false},
                                       static_cast<std::uint64_t>(i + 1)));
      for (auto& l : blocks.back().linears)
        l.codes = RowRounding{.format = {.bits = 3, .group = 8}, .keepers = 4};
      begin_scales(blocks.back());
    }
    final_norm = small::around<T>(24, 1, 0.2, random);
    head = small::normals<T>(vocabulary, 24, 0.3, random);
    teacher_head = small::normals<T>(vocabulary, 24, 0.3, random);
    for (int i = 0; i < 5; ++i) {
      embedded.push_back(small::normals<T>(small::tokens, 24, 1, random));
      teachers.push_back(small::normals<T>(small::tokens, 24, 1, random));
      ids.emplace_back(small::tokens);
      std::iota(ids.back().begin(), ids.back().end(), i * small::tokens);
    }
    for (std::size_t i = 0; i < 5; ++i) {
      auto& set = i < 3 ? training : held_out;
      set.push_back({ids[i], std::as_const(teachers[i]).ref()});
    }
  }
  // Every token is a number of its own: its sample's times the tokens of one, and its place.
  std::span<const T> row_of(int id) const {
    return std::as_const(embedded[static_cast<std::size_t>(id / small::tokens)])
        .row(id % small::tokens);
  }
  EndToEnd<T> tuner(const EndToEndOptions& options, ThreadPool& pool) {
    const auto embed = [this](std::span<const int> text, MatrixRef<T> into) {
      REQUIRE(ssize(text) == into.rows());
      for (int t = 0; t < into.rows(); ++t) {
        const auto row = row_of(text[static_cast<std::size_t>(t)]);
        std::copy(row.begin(), row.end(), into.row(t).begin());
      }
    };
    return {
        blocks,   angles.view(), final_norm, embed, LogitLoss<T>(head.ref(), teacher_head.ref()),
        training, held_out,      options,    pool};
  }
  std::vector<T> values() const {
    std::vector<T> all(final_norm);
    for (const auto& block : blocks) {
      for (const auto& l : block.linears) {
        all.insert(all.end(), l.a.data(), l.a.data() + l.a.rows() * l.a.cols());
        all.insert(all.end(), l.b.data(), l.b.data() + l.b.rows() * l.b.cols());
        all.insert(all.end(), l.log_scale.data(),
                   l.log_scale.data() + l.log_scale.rows() * l.log_scale.cols());
      }
      for (const auto& input : block.inputs) all.push_back(input.clip);
      all.push_back(block.cache.key_high);
      all.insert(all.end(), block.mlp_norm.weight.begin(), block.mlp_norm.weight.end());
    }
    return all;
  }
};

// Checks all groups; returns how many gradients that were.
int check_gradients(const EndToEndRates& rates) {
  Model<double> model(3);
  ThreadPool pool(1);
  // The only training sample is the held-out one, so that one loss is the other.
  model.training.assign(1, model.held_out[0]), model.held_out.resize(1);
  auto tuner = model.tuner(
      {.phase = {.steps = 1, .evaluations = 1, .gradient_norm = 1e9}, .rates = rates}, pool);
  const auto groups = tuner.groups();
  RoundingTape tape;
  const auto loss = [&] { return tuner.held_out_loss(); };
  const double recorded = difference::recorded(tape, loss);
  auto still = groups;  // the same views, at rate 0: the gradients alone
  for (auto& group : still) group.rate = 0;
  const auto report = tuner.run_phase(still);
  CHECK(report.training[0] == Approx(recorded).epsilon(1e-12));
  int checked = 0;
  for (const auto& group : groups) {
    for (const auto& view : group.views) {
      for (std::size_t i = 0; i < view.values.size(); i += 11) {
        const auto moved = [&] {
          if (group.spread) group.spread();
          return loss();
        };
        const double expected = difference::derivative(tape, view.values[i], moved);
        if (group.spread) group.spread();
        CAPTURE(group.name, i, view.gradients[i], expected);
        REQUIRE(difference::close(view.gradients[i], expected, 1));
        ++checked;
      }
    }
  }
  return checked;
}

TEST_CASE("every group's gradient is that of finite differences through all blocks") {
  CHECK(check_gradients({}) > 200);
  // Without the norms, which need the gradient of every block's input by themselves.
  CHECK(check_gradients({.norm_gains = 0}) > 180);
  // Those of the scales of weights, and with them.
  CHECK(check_gradients({.low_rank = 0, .clips = 0, .norm_gains = 0, .scales = 8e-3}) > 100);
}

TEST_CASE("tuning lowers the divergence on held-out text and never ends worse") {
  Model<float> model(2);
  ThreadPool pool(2);
  // The teacher says what the embedding says: something to approach.
  for (auto* set : {&model.training, &model.held_out}) {
    for (auto& sample : *set)
      sample.teacher =
          std::as_const(model.embedded[static_cast<std::size_t>(sample.ids[0] / small::tokens)])
              .ref();
  }
  auto tuner = model.tuner(
      {.phase = {.steps = 60, .evaluations = 6}, .rates = {1e-2, 1e-2, 1e-2, 1e-3}}, pool);
  const double before = tuner.held_out_loss();
  const auto report = tuner.run_phase(tuner.groups());
  CHECK(report.before == before);
  CHECK(report.best < 0.9 * before);
  // The weights that were put back have been multiplied at most 61 times, each time with a rounding
  // of 2^-24 in the factor and in the product: 7e-6 of themselves at most.
  CHECK(tuner.held_out_loss() == Approx(report.best).epsilon(1e-5));

  Model<float> hasty(2);
  auto fast = hasty.tuner({.phase = {.steps = 4}, .rates = {100, 100, 100, 100}}, pool);
  const auto start = hasty.values();
  const auto refused = fast.run_phase(fast.groups());
  CHECK(refused.best <= refused.before);
  if (refused.best_step == 0) CHECK(hasty.values() == start);
}

TEST_CASE("running blocks again gives what keeping their activations gives, on any threads") {
  std::vector<float> first;
  for (const bool keep : {false, true}) {
    for (const int threads : {1, 3}) {
      Model<float> model(3);
      ThreadPool pool(threads);
      auto tuner = model.tuner(
          {.phase = {.steps = 4}, .rates = {.scales = 8e-3}, .keep_activations = keep}, pool);
      (void)tuner.run_phase(tuner.groups());
      if (first.empty()) first = model.values();
      CHECK(model.values() == first);
    }
  }
}

TEST_CASE("what has the rate 0 is not learned") {
  Model<float> model(2);
  ThreadPool pool(1);
  auto tuner = model.tuner({.rates = {.low_rank = 0, .clips = 2e-3, .norm_gains = 0}}, pool);
  for (const auto& group : tuner.groups()) {
    CHECK((group.name == "activation clips" || group.name == "cache clips"));
  }
}

// Nothing of the optimizer: only gradients, of the only sample.
EndToEndOptions still(int steps, int segment) {
  return {.phase = {.steps = steps, .evaluations = 1, .gradient_norm = 1e9},
          .rates = {.scales = 8e-3, .biases = 1e-3},
          .segment = segment};
}
template <class T>
std::vector<ParameterGroup<T>> at_rest(std::vector<ParameterGroup<T>> groups) {
  for (auto& group : groups) group.rate = 0;
  return groups;
}
template <class T>
std::vector<T> gradients(std::span<const ParameterGroup<T>> groups) {
  std::vector<T> all;
  for (const auto& group : groups) {
    for (const auto& view : group.views)
      all.insert(all.end(), view.gradients.begin(), view.gradients.end());
  }
  return all;
}

TEST_CASE("a sample read segment by segment has the divergence of one that is read at once") {
  for (const int sinks : {0, 2, 6}) {
    Model<double> whole(3), segments(3);
    ThreadPool pool(2);
    for (auto* model : {&whole, &segments}) {
      for (auto& block : model->blocks) block.cache.sinks = sinks;
    }
    auto one = whole.tuner(still(1, small::tokens), pool);
    const double expected = one.held_out_loss();
    for (const int segment : {4, 3, 1}) {
      auto other = segments.tuner(still(1, segment), pool);
      // Sums over other numbers of keys are added in another order. The second time, what the first
      // left behind must not be read.
      for (int time = 0; time < 2; ++time)
        CHECK(other.held_out_loss() == Approx(expected).epsilon(1e-12));
    }
  }
}

TEST_CASE("a segment learns what it would behind a prompt of what was before it") {
  ThreadPool pool(1);
  for (const bool keep : {false, true}) {
    Model<double> model(2);
    model.training.resize(1);
    const TextSample<double> sample = model.training[0];
    auto options = still(2, 5);  // the second step: tokens 5 to 8
    options.keep_activations = keep;
    auto tuner = model.tuner(options, pool);
    const auto groups = at_rest(tuner.groups());
    const auto report = tuner.run_phase(groups);

    // The same tokens as a sample, behind all that blocks read of the first five.
    Model<double> behind(2);
    Matrix<double> x(5, 24), y(5, 24);
    for (int t = 0; t < 5; ++t) {
      const auto row = behind.row_of(t);
      std::copy(row.begin(), row.end(), x.row(t).begin());
    }
    for (auto& block : behind.blocks) {
      BlockActivations<double> a;
      forward<double>(block, behind.angles.view().first(5), x.ref(), a, y.ref(), pool);
      block.cache.prompt_keys = std::move(a.keys), block.cache.prompt_values = std::move(a.values);
      block.cache.sinks = 0;
      std::swap(x, y);
    }
    behind.training.assign(1, {sample.ids.subspan(5), sample.teacher.rows(5, 4)});
    behind.held_out = behind.training;
    behind.angles = small::Angles<double>(small::prompt + 5);
    auto expected = behind.tuner(still(1, 4), pool);
    const auto expected_groups = at_rest(expected.groups());
    const auto expected_report = expected.run_phase(expected_groups);
    CHECK(report.training[1] == Approx(expected_report.training[0]).epsilon(1e-12));
    const auto got = gradients<double>(groups), wanted = gradients<double>(expected_groups);
    REQUIRE(got.size() == wanted.size());
    double largest = 0;
    for (const double g : wanted) largest = std::max(largest, std::abs(g));
    for (std::size_t i = 0; i < got.size(); ++i)
      REQUIRE(std::abs(got[i] - wanted[i]) < 1e-10 * largest);
    // The prompts of the model that was tuned are its own again.
    for (const auto& block : model.blocks) CHECK(block.cache.prompt() == small::prompt);
  }
}

TEST_CASE("states are kept where a sample begins, and lead to the same end") {
  ThreadPool pool(1);
  const EndToEndOptions options{.phase = {.steps = 17, .evaluations = 4}, .segment = 4};
  Model<float> whole(2);
  std::vector<PhaseState<float>> states;
  {
    auto tuner = whole.tuner(options, pool);
    (void)tuner.run_phase(tuner.groups(), {}, {.every = 2, .save = [&](const auto& state) {
                                                 states.push_back(state);
                                                 return true;
                                               }});
  }
  // Three samples of three segments: none of the states is inside of one.
  REQUIRE(states.size() == 5);
  for (const auto& state : states) {
    CHECK(state.steps % 3 == 0);
    Model<float> again(2);
    auto tuner = again.tuner(options, pool);
    (void)tuner.run_phase(tuner.groups(), {}, {.every = 2, .begun = &state});
    CHECK(again.values() == whole.values());
  }
}

}  // namespace
