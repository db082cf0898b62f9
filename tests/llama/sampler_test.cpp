// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bisup/core/random.hpp>
#include <bisup/llama/sampler.hpp>
#include <cmath>
#include <limits>
#include <numeric>
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

// Where the share of u that draws token `id` begins and ends, in doubles, from a list that is
// sorted as a whole; of everything that is kept together, `mass`; how far the nearest token is from
// another side of top-p and min-p, relatively.
struct Share {
  double begin = 0, end = 0, mass = 0, nearest = 1;
};
Share share_of(int id, const std::vector<float>& x, const SamplingOptions& options) {
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int i) { return static_cast<double>(x[static_cast<std::size_t>(i)]); };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logit(a) > logit(b); });
  if (options.top_k > 0)
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  const auto weight = [&](int i) {
    return std::exp((logit(i) - logit(order[0])) / options.temperature);
  };
  double all = 0;
  for (const int i : order) all += weight(i);
  Share share;
  for (std::size_t n = 0; n < order.size(); ++n) {
    const double w = weight(order[n]);
    if (n > 0) {
      share.nearest = std::min(
          {share.nearest, options.top_p < 1 ? std::abs(share.mass / (options.top_p * all) - 1) : 1,
           options.min_p > 0 ? std::abs(w / options.min_p - 1) : 1});
    }
    if (n > 0 && (share.mass >= options.top_p * all || w < options.min_p)) break;
    if (order[n] == id) share.begin = share.mass, share.end = share.mass + w;
    share.mass += w;
  }
  return share;
}

TEST_CASE("what is drawn is what sorting the whole vocabulary would draw") {
  constexpr int size = 3000;
  for (const float width :
       {0.2f, 2.0f, 8.0f}) {  // of the logits: nearly even, as models are, steep
    std::vector<float> x(size);
    bisup::Random random(static_cast<std::uint64_t>(width * 10));
    for (float& logit : x) logit = width * static_cast<float>(random.normal());
    const float widest =
        *std::max_element(x.begin(), x.end()) - *std::min_element(x.begin(), x.end());
    for (const SamplingOptions& options :
         {SamplingOptions{.temperature = 1}, SamplingOptions{.temperature = 0.7f, .top_p = 0.95f},
          SamplingOptions{.temperature = 2, .top_k = 40},
          SamplingOptions{.temperature = 1, .min_p = 0.05f},
          SamplingOptions{.temperature = 1, .top_k = 500, .top_p = 0.9f, .min_p = 0.001f},
          SamplingOptions{.temperature = 1, .top_k = size + 1, .top_p = 0.8f}}) {
      INFO(width << ", top_k " << options.top_k << ", top_p " << options.top_p << ", min_p "
                 << options.min_p);
      Sampler sampler(options);
      bisup::Random same(options.seed);
      // A weight errs by the rounding of its exponent, exp's three units and the quotient's; so do
      // sums of weights.
      const double error = (2 * widest / options.temperature + 5) * 0x1p-24;
      for (int draw = 0; draw < 200; ++draw) {
        const Share share = share_of(sampler.sample(x), x, options);
        const double at = same.uniform() * share.mass, slack = 2 * error * share.mass;
        REQUIRE(share.nearest > 2 * error);  // rounding does not decide what is kept
        REQUIRE(share.end > 0);
        REQUIRE(at > share.begin - slack);
        REQUIRE(at < share.end + slack);
      }
    }
  }
}

TEST_CASE("tokens of no probability are never drawn, and a tiny temperature is greedy") {
  constexpr float none = -std::numeric_limits<float>::infinity();
  const std::array<float, 4> masked = {none, 1.0f, none, 0.5f};
  Sampler sampler({.temperature = 1, .top_k = 4});
  std::array<int, 4> seen = {};
  for (int i = 0; i < 500; ++i) ++seen[static_cast<std::size_t>(sampler.sample(masked))];
  CHECK((seen[0] == 0 && seen[2] == 0 && seen[1] > 0 && seen[3] > 0));
  CHECK(Sampler({.temperature = 1e-30f}).sample(logits) % 2 == 1);  // one of the two largest
}

TEST_CASE("greedy finds the largest wherever it lies, and passes over what is not a number") {
  for (int size = 1; size <= 19; ++size) {
    for (int place = 0; place < size; ++place) {
      std::vector<float> many(static_cast<std::size_t>(size),
                              std::numeric_limits<float>::quiet_NaN());
      many[static_cast<std::size_t>(place)] = -3;
      if (place + 1 < size) many[static_cast<std::size_t>(place) + 1] = -3;
      if (place > 0) many[0] = -4;
      CAPTURE(size, place);
      CHECK(Sampler({}).sample(many) == place);
      CHECK(Sampler({.temperature = 1e-44f}).sample(std::vector<float>(many.size(), 1.0f)) < size);
    }
  }
}

TEST_CASE("logits that are not numbers give some token of the vocabulary") {
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  for (const std::array<float, 3>& broken :
       {std::array{none, none, none}, std::array{1.0f, none, 2.0f}}) {
    for (const int top_k : {0, 2}) {
      const int id = Sampler({.temperature = 1, .top_k = top_k, .top_p = 0.9f}).sample(broken);
      CHECK((id >= 0 && id < 3));
    }
  }
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
