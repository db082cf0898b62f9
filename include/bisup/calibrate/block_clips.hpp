// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far are a block's activations and its cache clipped? As the recipe says, or as
// clip_choice.hpp finds on held-out crops of the quantized stream.

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/calibrate/block_pass.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/config.hpp>

namespace bisup {

// What clips are chosen for; the prompt is what all tokens come after.
struct ClipTask {
  const llama::Config& config;
  const Scheme& scheme;
  const Recipe& recipe;
  const PromptCache& prompt;
};

// Writes the clips into the policy and the report. dense: the block in floats; exact: runs it with
// nothing rounded. Errors: out_of_memory.
[[nodiscard]] inline Result<void> choose_clips(const ClipTask& task, const Block& dense,
                                               BlockPass& exact, const Streams& streams,
                                               KvPolicy& policy, BlockReport& report,
                                               ThreadPool& pool) {
  const auto& [config, scheme, recipe, prompt] = task;
  constexpr int most_tokens = 1024;
  if (recipe.kv_clip.constant) {
    policy.key_clip = policy.value_clip = {*recipe.kv_clip.constant, *recipe.kv_clip.constant};
  }
  if (recipe.activation_clip.constant) {
    for (auto& input : report.inputs) input.clip = *recipe.activation_clip.constant;
  }
  const bool activations = scheme.quantizes_activations() && !recipe.activation_clip.constant;
  const bool cache = scheme.quantizes_cache() && !recipe.kv_clip.constant;
  if (!activations && !cache) return {};

  // Tokens are taken at equal distances out of all held-out crops.
  int tokens = 0;
  for (int i = streams.crops; i < streams.quantized.samples(); ++i)
    tokens += streams.quantized.length(i);
  const int step = std::max(1, tokens / most_tokens);
  std::array<Matrix<float>, 4> inputs;
  std::array<int, 4> filled{};
  Matrix<float> x;
  for (int i = streams.crops; i < streams.quantized.samples(); ++i) {
    streams.quantized.read(i, x);
    exact.inputs(dense, x.ref(), [&](int site, const llama::Activation& input) {
      const auto at = static_cast<std::size_t>(site);
      const MatrixRef<const float> from = input.exact();
      if (filled[at] == 0)
        inputs[at].resize(tokens / step + streams.quantized.samples(), from.cols());
      for (int t = 0; t < from.rows(); t += step)
        std::copy_n(from.row_data(t), from.cols(), inputs[at].row(filled[at]++).data());
    });
    if (cache && i == streams.crops) {
      const llama::Scratch& s = exact.scratch();
      const auto found = choose_kv_clips({s.q.ref(), s.k.ref(), s.v.ref()},
                                         {.kv_heads = config.kv_heads,
                                          .head_dim = config.head_dim,
                                          .window = config.sliding_window.value_or(0)},
                                         policy, prompt, pool);
      if (!found) return found.error();
      policy.key_clip = {found->keys.clip, found->keys.clip};
      policy.value_clip = {found->values.clip, found->values.clip};
    }
  }
  report.key_clip = policy.key_clip.high, report.value_clip = policy.value_clip.high;
  for (std::size_t site = 0; activations && site < 4; ++site) {
    std::vector<DenseView> readers;
    for (const auto& named : llama::named_linears) {
      if (named.input == llama::named_inputs[site].input)
        readers.push_back((dense.*named.linear).dense()->view);
    }
    InputReport& input = report.inputs[site];
    const auto found =
        choose_activation_clip(inputs[site].ref().rows(0, filled[site]),
                               *input_form(scheme, false).format, input.keepers, readers, pool);
    input.clip = found.clip;
    input.clip_gain = found.unclipped > 0 ? found.damage / found.unclipped : 1;
  }
  return {};
}

}  // namespace bisup
