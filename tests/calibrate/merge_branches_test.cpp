// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/calibrate/merge_branches.hpp>
#include <bisup/compensate/low_rank.hpp>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <bisup_test.hpp>
#include <calibrate/unrounded_block.hpp>

namespace {

using namespace bisup;

const Tuning merging{.merged_rank = 4, .length = test::tokens, .block_steps = 24};

struct Merging : test::UnroundedBlock {
  explicit Merging(const Recipe& recipe) : UnroundedBlock(recipe, 1) {}
  std::optional<BasisBlock> merged(const Tuning& with) {
    auto done = merge_branches<float>(simulate(block, true), start(block, power), config, streams(),
                                      with, pool);
    REQUIRE(done);
    return std::move(done).value();
  }
};

TEST_CASE("merged branches make a block that rounds to what is nearer the float one") {
  int merged = 0;
  for (const Recipe& recipe : {recipes::gptq, recipes::atom, recipes::quarot}) {
    Merging p(recipe);
    const auto made = p.merged(merging);
    INFO(recipe.name);
    if (made) CHECK(p.loss(*made, p.power) < p.loss(p.block, p.power));
    merged += made ? 1 : 0;
  }
  CHECK(merged >= 2);  // rotated random inputs leave little to gain
}

TEST_CASE("what is merged has the rank that was asked for") {
  Merging p(recipes::gptq);
  const auto made = p.merged(merging);
  REQUIRE(made);
  const auto before = std::as_const(p.block.weights).linears(), after = made->weights.linears();
  for (std::size_t i = 0; i < before.size(); ++i) {
    Matrix<float> change = after[i]->weights.clone(), rest = change.clone();
    double size = 0, power = 0, left = 0;
    for (int r = 0; r < change.rows(); ++r) {
      for (int c = 0; c < change.cols(); ++c) {
        const float w = before[i]->weights(r, c);
        change(r, c) -= w, rest(r, c) = change(r, c);
        size = std::max(size, static_cast<double>(std::fabs(w)));
        power += std::pow(change(r, c), 2);
      }
    }
    CHECK(power > 0);
    const std::vector<float> ones(static_cast<std::size_t>(change.cols()), 1.0f);
    const auto branch = weighted_svd(change.ref(), ones, {.rank = merging.merged_rank}, p.pool);
    REQUIRE(branch);
    Matrix<float> product(change.rows(), change.cols());
    multiply(branch->b.ref(), branch->a.ref(), product.ref(), Into::replace, p.pool);
    for (int r = 0; r < rest.rows(); ++r) {
      for (int c = 0; c < rest.cols(); ++c) left += std::pow(rest(r, c) - product(r, c), 2);
    }
    // The sum W + B A was rounded to 2^-24 of the largest weight at most, and so was the
    // difference; the singular vectors are good to 1e-3 of the change.
    const double bound = size * 0x1p-23 * std::sqrt(change.rows() * change.cols());
    CHECK(std::sqrt(left) <= bound + 1e-3 * std::sqrt(power));
  }
}

TEST_CASE("norms, biases and inputs are those of the block, and no step is no change") {
  Merging p(recipes::atom);
  const auto made = p.merged(merging);
  REQUIRE(made);
  CHECK(made->weights.attention_norm == p.block.weights.attention_norm);
  CHECK(made->weights.mlp_norm == p.block.weights.mlp_norm);
  CHECK(made->inputs.attention.order == p.block.inputs.attention.order);
  Tuning still = merging;
  still.branch_rate = 0;
  CHECK_FALSE(p.merged(still).has_value());
}

}  // namespace
