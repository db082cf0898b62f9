// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/outlier_tokens.hpp>
#include <limits>

#include <bisup_test.hpp>
#include <calibrate/tiny_llama.hpp>

namespace {

using namespace bisup;
using Ids = std::vector<int>;

constexpr int start = 1, dot = 20, line = 30, word = 40;

// Ten words of magnitude 1 a sample and layer, in which some are larger.
TokenMagnitudes sample(Ids ids, const std::vector<std::pair<int, float>>& large, int layer = 0) {
  TokenMagnitudes s{std::move(ids), Matrix<float>(2, 10)};
  for (int l = 0; l < 2; ++l) {
    for (int t = 0; t < 10; ++t) s.largest(l, t) = 1;
  }
  for (const auto& [token, magnitude] : large) s.largest(layer, token) = magnitude;
  return s;
}
Ids words(const std::vector<std::pair<std::size_t, int>>& others) {
  Ids ids(10, word);
  for (const auto& [at, id] : others) ids[at] = id;
  return ids;
}

TEST_CASE(
    "as many tokens are stored as a sample has outliers, those of text first, its start last") {
  std::vector<TokenMagnitudes> samples;
  samples.push_back(sample(words({{3, dot}, {5, line}}), {{0, 900}, {3, 500}}));
  samples.push_back(sample(words({{4, dot}}), {{0, 900}, {4, 500}}));
  samples.push_back(sample(words({{7, line}}), {{0, 900}, {7, 500}}, 1));
  // Layer 0: 4 outliers of 3 samples, so 2 tokens; the first of a sample is there because of its
  // place.
  const auto found = outlier_tokens(samples, start, 64);
  CHECK(found.of_a_sample == Approx(4.0 / 3));
  CHECK(found.prompt == Ids{dot, start});
  CHECK(outlier_tokens(samples, {}, 64).prompt == Ids{dot, line});
  CHECK(outlier_tokens(samples, dot, 64).prompt == Ids{line, dot});
  // At 64 times the median nothing is one yet.
  CHECK(outlier_tokens(samples, start, 900).prompt.empty());
  CHECK(outlier_tokens({}, start, 64).prompt.empty());
}

TEST_CASE("a model whose outliers are its first tokens only needs a start") {
  std::vector<TokenMagnitudes> samples;
  for (int i = 0; i < 3; ++i) samples.push_back(sample(words({{0, dot}}), {{0, 900}}));
  CHECK(outlier_tokens(samples, start, 64).prompt == Ids{start});
}

TEST_CASE("magnitudes are of what the down projections read") {
  ThreadPool pool(2);
  const Samples samples = test::tiny_samples(3, 24);
  auto model = llama::read_model(test::tiny_source()).value();
  const OutlierRule rule{.samples = 2, .length = 16};
  const auto before = token_magnitudes(model, samples, rule, pool).value();
  REQUIRE(before.size() == 2);
  CHECK(before[1].ids == Ids(samples.crops[1].begin(), samples.crops[1].begin() + 16));
  REQUIRE((before[0].largest.rows() == 4 && before[0].largest.cols() == 16));
  // silu(gate) * up is linear in up: twice as large in its own layer, the same in those before.
  auto& up = model.blocks[2].up;
  Matrix<float> weights = llama::as_matrix(up.dense()->view);
  for (int r = 0; r < weights.rows(); ++r) {
    for (float& w : weights.row(r)) w *= 2;
  }
  up = llama::AnyLinear(llama::dense_tensor(std::move(weights)), up.bias());
  const auto after = token_magnitudes(model, samples, rule, pool).value();
  for (int t = 0; t < 16; ++t) {
    CHECK(after[0].largest(1, t) == before[0].largest(1, t));
    CHECK(after[0].largest(2, t) == Approx(2 * before[0].largest(2, t)).epsilon(1e-6));
  }
  model.blocks[0].norms.attention[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(token_magnitudes(model, samples, rule, pool).error().code == Errc::not_finite);
}

}  // namespace
