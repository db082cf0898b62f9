// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/end_to_end.hpp>
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
      ids.emplace_back(small::tokens, i);
    }
    for (std::size_t i = 0; i < 5; ++i) {
      auto& set = i < 3 ? training : held_out;
      set.push_back({ids[i], std::as_const(teachers[i]).ref()});
    }
  }
  EndToEnd<T> tuner(const EndToEndOptions& options, ThreadPool& pool) {
    // Every token is a number of its sample.
    const auto embed = [this](std::span<const int> text, MatrixRef<T> into) {
      const Matrix<T>& from = embedded[static_cast<std::size_t>(text[0])];
      REQUIRE((into.rows() == from.rows() && into.cols() == from.cols() && ssize(text) == from.rows()));
      std::copy_n(from.data(), from.rows() * from.cols(), into.data());
    };
    return {blocks, angles.view(), final_norm, embed, LogitLoss<T>(head.ref(), teacher_head.ref()), training,
            held_out, options, pool};
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
    for (auto& sample : *set) sample.teacher = std::as_const(model.embedded[static_cast<std::size_t>(sample.ids[0])]).ref();
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

}  // namespace
