// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/calibrate/smooth_block.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <bisup_test.hpp>
#include <calibrate/tiny_llama.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

constexpr int tokens = 48, crops = 8, held_out = 3;
constexpr Format weight_format{.bits = 3, .group = 32};
const Tuning tuning{.length = tokens, .block_steps = 12, .smoothing = true};

// Block 1 of the model in a basis, some of whose norms' channels were made large, with streams.
struct Problem {
  ThreadPool pool{2};
  io::Checkpoint source = test::tiny_source();
  llama::Config config = source.config();
  BasisBlock block;
  SitePower power;
  BlockReport report;
  std::optional<Stream> inputs, targets;
  llama::BlockWeights<llama::AnyLinear> view;

  explicit Problem(const Recipe& recipe, float outliers = 25) {
    const auto basis = ModelBasis::make(config, Basis::natural, 3).value();
    block = read_basis_block(source, 1, basis, pool).value();
    ModelBasis::make(config, recipe.basis, 3).value().change(block, pool);
    for (const std::size_t c : {3U, 17U, 40U})
      block.weights.attention_norm[c] *= outliers, block.weights.mlp_norm[c] *= outliers;
    const std::vector<int> lengths(crops + held_out, tokens);
    inputs = Stream::allocate(lengths, config.hidden_size, DType::f32, heap_memory).value();
    targets = Stream::allocate(lengths, config.hidden_size, DType::f32, heap_memory).value();
    std::vector<ChannelStatistics> statistics;
    for (const int width : {config.hidden_size, config.heads * config.head_dim, config.hidden_size,
                            config.intermediate_size})
      statistics.emplace_back(width);
    for (int i = 0; i < crops + held_out; ++i) {
      const Matrix<float> x =
          test::normals(tokens, config.hidden_size, 10 + static_cast<std::uint64_t>(i));
      inputs->write(i, x.ref());
      tune::BlockActivations<float> a;
      targets->write(i, output(block, x.ref(), a).ref());
      for (std::size_t site = 0; site < 4; ++site) statistics[site].add(a.inputs[site].before);
    }
    power = transform_block(block, statistics, recipe, report, pool);
  }

  [[nodiscard]] BlockShape shape() const {
    return {config.hidden_size,       config.heads,   config.kv_heads, config.head_dim,
            config.intermediate_size, config.norm_eps};
  }
  // In floats, or with inputs rounded.
  tune::SimulatedBlock<float> simulate(const BasisBlock& of, bool rounded) {
    auto dense = dense_view(of);
    for (std::size_t i = 0; i < 4 && rounded; ++i) {
      llama::InputForm& form = dense.inputs.*llama::named_inputs[i].input;
      form.format = ActivationFormat{.bits = 4, .group = 32};
      form.simulate = true, form.keepers = report.inputs[i].keepers;
    }
    return simulated<float>(dense, shape(), KvEntry{}, KvPolicy{}, pool);
  }
  Matrix<float> output(const tune::SimulatedBlock<float>& of, MatrixRef<const float> x,
                       tune::BlockActivations<float>& a) {
    const tune::RopeAngleTable<float> angles(config, 0, x.rows());
    Matrix<float> y(x.rows(), x.cols());
    tune::forward<float>(of, angles.view(), x, a, y.ref(), pool);
    return y;
  }
  Matrix<float> output(const BasisBlock& of, MatrixRef<const float> x,
                       tune::BlockActivations<float>& a) {
    return output(simulate(of, false), x, a);
  }
  std::optional<SmoothedBlock> smoothed(const Tuning& with) {
    return smooth_block<float>(simulate(block, true), {block, power, weight_format, report}, config,
                               {*inputs, *targets, crops}, with, pool);
  }
  // On held-out crops, weights rounded to nearest.
  double loss(const BasisBlock& of, const SitePower& with) {
    auto rounded = simulate(of, true);
    detail::round_weights(rounded, {of, with, weight_format, report}, pool);
    double error = 0;
    Matrix<float> x, z;
    tune::BlockActivations<float> a;
    for (int i = crops; i < crops + held_out; ++i) {
      inputs->read(i, x), targets->read(i, z);
      error += detail::square_difference(output(rounded, std::as_const(x).ref(), a).ref(), z.ref());
    }
    return error;
  }
};

const std::vector<Recipe> smoothed_bases = {recipes::gptq, recipes::atom, recipes::quarot};

TEST_CASE("a smoothed block computes in floats what it computed before") {
  for (const Recipe& recipe : smoothed_bases) {
    Problem p(recipe);
    const auto made = p.smoothed(tuning);
    INFO(recipe.name);
    REQUIRE(made);
    const Matrix<float> x = test::normals(tokens, p.config.hidden_size, 99);
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
