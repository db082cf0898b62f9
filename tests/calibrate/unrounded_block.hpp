// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// A block that something is to be learned about before it is rounded: what smoothing and merging
// are tested on.

#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/calibrate/tuning_data.hpp>
#include <bisup/calibrate/unrounded_block.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <cstdint>
#include <optional>
#include <vector>

#include <calibrate/tiny_llama.hpp>
#include <normals.hpp>

namespace bisup::test {

inline constexpr int tokens = 48, crops = 8, held_out = 3;
inline constexpr Format weight_format{.bits = 3, .group = 32};

// Block 1 of the model in a basis, some of whose norms' channels were made large, with streams.
struct UnroundedBlock {
  ThreadPool pool{2};
  io::Checkpoint source = tiny_source();
  llama::Config config = source.config();
  BasisBlock block;
  SitePower power;
  BlockReport report;
  std::optional<Stream> inputs, targets;

  explicit UnroundedBlock(const Recipe& recipe, float outliers = 25) {
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
          normals(tokens, config.hidden_size, 10 + static_cast<std::uint64_t>(i));
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
  UnroundedStart start(const BasisBlock& of, const SitePower& with) const {
    return {of, with, weight_format, report};
  }
  TuningStreams streams() const { return {*inputs, *targets, crops}; }
  // On held-out crops, weights rounded to nearest.
  double loss(const BasisBlock& of, const SitePower& with) {
    auto rounded = simulate(of, true);
    bisup::detail::round_weights(rounded, start(of, with), pool);
    double error = 0;
    Matrix<float> x, z;
    tune::BlockActivations<float> a;
    for (int i = crops; i < crops + held_out; ++i) {
      inputs->read(i, x), targets->read(i, z);
      error += bisup::detail::square_difference(output(rounded, std::as_const(x).ref(), a).ref(),
                                                z.ref());
    }
    return error;
  }
};

}  // namespace bisup::test
