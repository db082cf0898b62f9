// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/calibrate/smooth_block.hpp>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <bisup_test.hpp>
#include <calibrate/unrounded_block.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

const Tuning tuning{.length = test::tokens, .block_steps = 12, .smoothing = true};

struct Problem : test::UnroundedBlock {
  using UnroundedBlock::UnroundedBlock;
  std::optional<SmoothedBlock> smoothed(const Tuning& with) {
    return smooth_block<float>(simulate(block, true), start(block, power), config, streams(), with,
                               pool);
  }
};

const std::vector<Recipe> smoothed_bases = {recipes::gptq, recipes::atom, recipes::quarot};

TEST_CASE("a smoothed block computes in floats what it computed before") {
  for (const Recipe& recipe : smoothed_bases) {
    Problem p(recipe);
    const auto made = p.smoothed(tuning);
    INFO(recipe.name);
    REQUIRE(made);
    const Matrix<float> x = test::normals(test::tokens, p.config.hidden_size, 99);
    tune::BlockActivations<float> before, after;
    const auto y = p.output(p.block, x.ref(), before), z = p.output(made->block, x.ref(), after);
    // Rounding of some hundred terms, 2^-24 each; a site that was merged on one side only is off by
    // the size of its scales.
    CHECK(detail::square_difference(y.ref(), z.ref()) <
          std::pow(0x1p-24 * 512, 2) * detail::square_sum(y.ref()));
    // The statistics are those of the new block's inputs.
    for (std::size_t site = 0; site < 4; ++site) {
      const auto& was = before.inputs[site].before;
      const auto& is = after.inputs[site].before;
      for (int c = 0; c < is.cols(); c += 7) {
        const auto at = static_cast<std::size_t>(c);
        const double ratio = static_cast<double>(is(5, c)) / static_cast<double>(was(5, c));
        const double told =
            std::sqrt(static_cast<double>(made->power[site][at] / p.power[site][at]));
        CHECK(ratio == Approx(told).epsilon(1e-3));
        CHECK(made->largest[site][at] ==
              Approx(p.report.inputs[site].largest_after[at] * told).epsilon(1e-3));
      }
    }
  }
}

TEST_CASE("and is easier to round, where channels differ") {
  for (const Recipe& recipe : smoothed_bases) {
    Problem p(recipe);
    const auto made = p.smoothed(tuning);
    REQUIRE(made);
    INFO(recipe.name);
    CHECK(p.loss(made->block, made->power) < p.loss(p.block, p.power));
  }
}

TEST_CASE("keepers stay as they are at the sites where a scale is one channel's") {
  Problem p(recipes::atom);
  const auto made = p.smoothed(tuning);
  REQUIRE(made);
  for (const std::size_t site : {0U, 2U, 3U}) {
    const auto keepers = static_cast<std::size_t>(p.report.inputs[site].keepers);
    REQUIRE(keepers > 0);
    const std::size_t body = p.power[site].size() - keepers;
    CHECK(std::vector(made->power[site].begin() + static_cast<std::ptrdiff_t>(body),
                      made->power[site].end()) ==
          std::vector(p.power[site].begin() + static_cast<std::ptrdiff_t>(body),
                      p.power[site].end()));
    CHECK(made->power[site] != p.power[site]);
  }
}

TEST_CASE("a block that nothing makes easier is left alone") {
  Problem p(recipes::quarot, 1);  // rotations have made all channels alike
  Tuning still = tuning;
  still.smoothing_rate = 0;  // only the outliers' own scales are tried
  CHECK_FALSE(p.smoothed(still).has_value());
}

}  // namespace
