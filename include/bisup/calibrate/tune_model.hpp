// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do all blocks learn together? All that was learned of each, and the final norm, is tuned
// towards the float model's next-token distributions; this is where most of the gain is
// (docs/bisup.md).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/calibrate/samples.hpp>
#include <bisup/calibrate/simulated.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/calibrate/tune_block.hpp>
#include <bisup/calibrate/tuning.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/llama/session.hpp>
#include <bisup/ops/rms_norm.hpp>
#include <bisup/tune/end_to_end.hpp>
#include <bisup/tune/logit_loss.hpp>
#include <bisup/tune/rope_angles.hpp>

namespace bisup {

// exact: the float stream behind the last block, let go as soon as it is read; gain: the float
// model's final norm in the model's basis. progress(step, steps) returns false to stop; what was
// best so far stays. Errors: not_finite (a learned scale), out_of_memory, wrong_shape (a state of
// another model).
template <class T = float>
Result<tune::PhaseReport> tune_model(llama::Model& model, const Samples& samples, Stream exact,
                                     const Tuning& tuning, std::uint64_t seed, ThreadPool& pool,
                                     const std::function<bool(int, int)>& progress = {},
                                     const tune::PhaseMemory<T>& memory = {}) {
  int longest = 0;
  for (int i = 0; i < exact.samples(); ++i) longest = std::max(longest, exact.length(i));
  auto teacher = detail::beginnings(exact, 0, exact.samples(), longest);
  exact = Stream();
  std::vector<tune::TextSample<T>> training, held_out;
  auto next = teacher.begin();
  for (const auto& [part, to] :
       {std::pair(&samples.crops, &training), std::pair(&samples.held_out, &held_out),
        std::pair(&samples.end_to_end, &training)}) {
    for (const std::vector<int>& ids : *part) {
      const MatrixRef<float> states = (next++)->ref();
      rms_norm(states, model.final_norm, model.config.norm_eps, states, pool);
      to->push_back({ids, states});
    }
  }
  const auto embed = [&model](std::span<const int> ids, MatrixRef<T> into) {
    llama::embed(model, ids, into);
  };
  std::vector<tune::SimulatedBlock<T>> blocks;
  const int heads = model.config.kv_heads;
  for (int layer = 0; layer < model.config.layers; ++layer) {
    blocks.push_back(simulated<T>(model.blocks[static_cast<std::size_t>(layer)],
                                  model.block_shape(), model.kv.entry(layer, 0, heads), model.kv,
                                  pool));
    begin_with(blocks.back().cache, model.prompt, layer);
    tune::multiply_in(blocks.back(), tuning.products);
    if (tuning.scales) tune::begin_scales(blocks.back());
    if (tuning.biases) tune::begin_biases(blocks.back());
  }
  const Matrix<float> head = detail::float_weights(model.head, pool);
  const tune::RopeAngleTable<T> angles(model.config, model.prompt.tokens(), longest);
  tune::EndToEndOptions options;
  options.phase.steps = tuning.end_to_end_steps, options.seed = seed,
  options.segment = tuning.end_to_end_segment, options.keep_activations = true;
  options.phase.full_rate_loss = tuning.full_rate_divergence * tune::grid_step(blocks.front());
  options.rates = {.low_rank = tuning.rank > 0 ? tuning.end_to_end_branch_rate : 0,
                   .clips = tuning.clips ? tuning.clip_rate : 0,
                   .norm_gains = tuning.norm_gains ? tuning.gain_rate : 0,
                   .scales = tuning.scales ? tuning.end_to_end_scale_rate : 0,
                   .biases = tuning.biases ? tuning.bias_rate : 0};
  tune::EndToEnd<T> tuner(blocks, angles.view(), model.final_norm, embed,
                          tune::LogitLoss<T>(head.ref(), head.ref(), tuning.products), training,
                          held_out, options, pool);
  const auto groups = tuner.groups();
  const std::span<const tune::ParameterGroup<T>> all(groups);
  if (memory.begun != nullptr && !tune::belongs(*memory.begun, all))
    return Error{Errc::wrong_shape, "the tuning that was begun has other parameters"};
  tune::PhaseReport report = tuner.run_phase(all, progress, memory);
  for (int layer = 0; layer < model.config.layers; ++layer) {
    const auto first = model.kv.table.begin() + static_cast<std::ptrdiff_t>(layer * heads);
    std::vector<KvEntry> kv;
    if (!model.kv.table.empty()) kv.assign(first, first + heads);
    if (auto taken =
            take_back(blocks[static_cast<std::size_t>(layer)],
                      model.blocks[static_cast<std::size_t>(layer)], kv, tuning.branch_type);
        !taken) {
      return taken.error();
    }
    if (!model.kv.table.empty()) std::copy(kv.begin(), kv.end(), first);
  }
  return report;
}

}  // namespace bisup
