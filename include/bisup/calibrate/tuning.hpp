// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much is tuned, and what? BiSup's vertical half as numbers: block by block towards the float
// stream, then all blocks together towards the float model's logits. Every ingredient has a switch;
// a preset is one row of a table.

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <bisup/core/dense.hpp>
#include <bisup/llama/branch.hpp>
#include <bisup/ops/matrix_product.hpp>

namespace bisup {

struct Tuning {
  int rank = 0;            // of the branches beside all seven linears; 0: none
  double branch_bits = 0;  // the most bits a weight that a branch may cost; 0: what its rank costs
  // Below 1: the lowest rank that takes this share of the weighted error off, if that is less.
  double branch_energy = 1;
  // Where branches begin: at the regression of the outputs' error where there are tokens enough, or
  // at the error of the weights (start_branches.hpp).
  bool regression = false;
  DType branch_type = DType::i8;  // in which its factors are stored, or f16
  int merged_rank = 0;            // of branches merged into the weights before these are rounded
  int length = 512;               // first tokens of each crop that blocks are tuned on
  int block_steps = 0;            // for each block, one crop a step
  int end_to_end_steps = 0;
  int end_to_end_segment = 256;  // tokens that such a step learns from, behind those before them
  // Learned, beside the branches: clips of activations and cache, scales of weights, biases, norms.
  bool clips = true, scales = true, biases = true, norm_gains = true;
  bool smoothing = false;  // learned before the block is rounded, as many steps again
  // Of AdamW, in both stages unless there are two. Those of branches, scales and biases are in
  // steps of the weights' grid (tune::grid_step), of biases also in norms of their rows.
  double branch_rate = 4e-3, end_to_end_branch_rate = 2e-3, clip_rate = 2e-3, scale_rate = 1.6e-2,
         end_to_end_scale_rate = 1e-2, bias_rate = 4e-3, gain_rate = 5e-4, smoothing_rate = 2e-2;
  // All of the end-to-end stage are less where its divergence begins below this, in nats a step of
  // the weights' grid: in proportion to its square.
  double full_rate_divergence = 1.85;
  // What linears and heads multiply, in all passes: words lose less than one step's gradient is off
  // for being of one crop.
  Products products = Products::words;

  friend bool operator==(const Tuning&, const Tuning&) = default;
  [[nodiscard]] bool smooths() const { return smoothing && block_steps > 0; }
  [[nodiscard]] bool merges() const { return merged_rank > 0 && block_steps > 0; }
  // Steps are taken where there is something to learn.
  [[nodiscard]] bool learns() const { return rank > 0 || clips || scales || biases || norm_gains; }
  [[nodiscard]] bool tunes_blocks() const { return learns() && block_steps > 0; }
  [[nodiscard]] bool regresses() const { return regression && rank > 0; }
  [[nodiscard]] bool tunes_model() const { return learns() && end_to_end_steps > 0; }
  // Of block_steps each: smoothing and merging before the rounding, the rest behind it.
  [[nodiscard]] int block_phases() const {
    return (smooths() ? 1 : 0) + (merges() ? 1 : 0) + (tunes_blocks() ? 1 : 0);
  }
  [[nodiscard]] bool any() const { return block_phases() > 0 || tunes_model(); }
  // Of the branch beside a linear, at most: its factors are [rank, in] and [rank, out].
  [[nodiscard]] int rank_of(int in, int out) const {
    const double of_one =
        llama::component_bits(in, out, branch_type) / (static_cast<double>(in) * out);
    const int most = std::min({rank, in, out});
    if (branch_bits <= 0 || most * of_one <= branch_bits) return most;
    return std::max(1, static_cast<int>(branch_bits / of_one));
  }
};

struct Preset {
  std::string_view name;
  int samples, length;  // of calibration data
  int self_generated;   // of these, so many
  int block_steps, end_to_end_steps;
  // Tokens more for the end-to-end stage alone, as far as the text has them: what it learns from a
  // sample that it reads again is that sample. In crops as long as windows are read.
  int end_to_end_tokens = 0;
};

inline constexpr std::array presets = {
    Preset{"demo", 16, 256, 0, 6, 30},
    Preset{"fast", 96, 256, 0, 24, 120},
    Preset{"default", 200, 256, 80, 48, 1400, 256'000},
    Preset{"thorough", 160, 2048, 32, 240, 4000},
};

[[nodiscard]] constexpr std::optional<Preset> find_preset(std::string_view name) {
  for (const Preset& preset : presets) {
    if (preset.name == name) return preset;
  }
  return std::nullopt;
}

}  // namespace bisup
