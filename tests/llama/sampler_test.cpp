// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bisup/llama/sampler.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using bisup::llama::Sampler;
using bisup::llama::SamplingOptions;

const std::array<float, 5> logits = {0.0f, 2.0f, 1.0f, 2.0f, -1.0f};

std::array<double, 5> frequencies(const SamplingOptions& options, int draws) {
  Sampler sampler(options);
  std::array<double, 5> seen = {};
  for (int i = 0; i < draws; ++i)
    seen[static_cast<std::size_t>(sampler.sample(logits))] += 1.0 / draws;
  return seen;
}

TEST_CASE("temperature 0 takes the largest logit, the lower id on a tie") {
  CHECK(Sampler(SamplingOptions{}).sample(logits) == 1);
}

TEST_CASE("sampling follows the softmax of logits / temperature") {
  constexpr int draws = 40000;
  const double temperature = 0.7;
  const auto seen = frequencies({.temperature = static_cast<float>(temperature), .seed = 3}, draws);
  double total = 0;
  for (const float l : logits) total += std::exp(l / temperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / temperature) / total;
    CHECK(std::abs(seen[i] - p) < 5 * std::sqrt(p * (1 - p) / draws));  // five standard deviations
    CHECK(seen[i] > 0);
  }
}

TEST_CASE("top-k, top-p and min-p cut the tail, and only the tail") {
  const auto two = frequencies({.temperature = 1, .top_k = 2}, 2000);
  CHECK(two[1] + two[3] == Approx(1));
  CHECK(two[1] > 0.4);
  // softmax is about .051 .379 .139 .379 .019: 0.8 of the mass needs the first three
  const auto nucleus = frequencies({.temperature = 1, .top_p = 0.8f}, 4000);
  CHECK(nucleus[0] + nucleus[4] == 0);
  CHECK(nucleus[2] > 0.1);
  // e^-1 = .368 of the best is kept at 0.3, e^-2 = .135 is not
  const auto relative = frequencies({.temperature = 1, .min_p = 0.3f}, 4000);
  CHECK(relative[0] + relative[4] == 0);
  CHECK(relative[2] > 0.1);
}

TEST_CASE(
    "the repetition penalty pushes seen tokens down, whatever their sign, inside its window") {
  const std::vector<int> history = {1, 3};
  CHECK(Sampler({.repetition_penalty = 4}).sample(logits, history) == 2);
  CHECK(Sampler({.repetition_penalty = 4, .repetition_window = 1}).sample(logits, history) == 1);
  const std::array<float, 2> negative = {-1.0f, -1.5f};
  const std::vector<int> first = {0};
  CHECK(Sampler({.repetition_penalty = 2}).sample(negative, first) == 1);
}

TEST_CASE("one seed gives one sequence, another gives another") {
  const auto draw = [](std::uint64_t seed) {
    Sampler sampler({.temperature = 1.5f, .seed = seed});
    std::vector<int> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits));
    return ids;
  };
  CHECK(draw(7) == draw(7));
  CHECK(draw(7) != draw(8));
}

TEST_CASE("options outside their range are a broken contract") {
  CHECK_THROWS_AS(Sampler({.temperature = -1}), bisup::ContractViolation);
  CHECK_THROWS_AS(Sampler({.top_p = 0}), bisup::ContractViolation);
}

}  // namespace
