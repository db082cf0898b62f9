// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does one float block become a quantized one? Its float outputs are the teacher; its inputs
// are those that the quantized blocks before it really give. Transform, clips, rounding, and the
// block runs once more as it will run, which moves both streams on. calibrator.hpp goes from block
// to block.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/block_clips.hpp>
#include <bisup/calibrate/block_pass.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/merge_branches.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/round_block.hpp>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/calibrate/smooth_block.hpp>
#include <bisup/calibrate/start_branches.hpp>
#include <bisup/calibrate/statistics.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/calibrate/transform_block.hpp>
#include <bisup/calibrate/tune_block.hpp>
#include <bisup/calibrate/tuning_data.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/rope_angles.hpp>

namespace bisup {

struct FinishedBlock {
  Block weights;
  std::vector<KvEntry> kv;  // [kv_heads]; empty: an exact cache
  BlockReport report;
};

// What all tokens of one block come after: a prompt of one layer as the float model has it, which
// is what the float stream reads, and as the artefact stores it.
struct BlockPrompt {
  PromptCache exact, stored;
};

// T is the tuner's scalar type: float.
template <class T = float>
class BlockCalibrator {
 public:
  // `longest`: tokens of the longest crop, all of which come behind so many tokens of a prompt.
  // All references must outlive it.
  BlockCalibrator(const llama::Config& config, const Scheme& scheme, const Recipe& recipe,
                  const ModelBasis& basis, int longest, int prompt_tokens, ThreadPool& pool)
      : config_(config),
        scheme_(scheme),
        recipe_(recipe),
        basis_(basis),
        longest_(longest),
        rope_(config, prompt_tokens + longest),
        pool_(pool) {}

  // The cache's policy without what is chosen by layer.
  [[nodiscard]] KvPolicy policy() const {
    KvPolicy policy = KvPolicy::of(scheme_);
    const bool power_of_two = (config_.head_dim & (config_.head_dim - 1)) == 0;
    policy.rotate_keys = recipe_.basis == Basis::rotated && scheme_.key_bits < 16 && power_of_two;
    return policy;
  }

  // `block` is in the basis. Moves both streams behind it. Errors: not_finite (activations
  // or weights), out_of_memory.
  Result<FinishedBlock> run(int layer, BasisBlock block, const BlockPrompt& prompt,
                            Streams& streams) {
    prompt_ = prompt;
    FinishedBlock done;
    LapClock clock;
    const auto lap = [&](const char* name) { done.report.times.push_back(clock.lap(name)); };
    done.report.layer = layer;
    for (std::size_t i = 0; i < 4; ++i) done.report.inputs[i].name = llama::named_inputs[i].name;

    auto exact = pass({}, prompt_.exact);
    if (!exact) return exact.error();
    const auto statistics = teach(block, *exact, streams, done.report);
    if (!statistics) return statistics.error();
    SitePower power = transform_block(block, *statistics, recipe_, done.report, pool_);
    lap("statistics");
    if (auto finished = round(block, *exact, streams, done, lap); !finished)
      return finished.error();
    if (recipe_.tuning.smooths()) {
      if (auto finished = smooth(block, power, *exact, streams, done); !finished)
        return finished.error();
      lap("smoothing");
    }
    if (recipe_.tuning.merges()) {
      if (auto finished = merge(block, power, *exact, streams, done); !finished)
        return finished.error();
      lap("merging");
    }
    if (recipe_.tuning.tunes_blocks() || recipe_.tuning.tunes_model()) {
      if (auto tuned = tune(done, block, power, streams); !tuned) return tuned.error();
      lap("tuning");
    }
    auto final_pass = pass(layer_policy(done.kv), prompt_.stored);
    if (!final_pass) return final_pass.error();
    if (auto moved = advance(done, *final_pass, streams); !moved) return moved.error();
    lap("streams");
    return done;
  }

 private:
  // Clips, then codes: done becomes what the recipe's base makes of the block.
  template <class Lap>
  Result<void> round(const BasisBlock& block, BlockPass& exact, const Streams& streams,
                     FinishedBlock& done, Lap&& lap) {
    Block weights = dense_view(block);
    KvPolicy policy = this->policy();
    if (auto chosen = choose_clips({config_, scheme_, recipe_, prompt_.stored}, weights, exact,
                                   streams, policy, done.report, pool_);
        !chosen)
      return chosen.error();
    lap("clips");
    if (scheme_.quantizes_cache())
      done.kv.assign(static_cast<std::size_t>(config_.kv_heads), policy.entry(0, 0, 1));
    auto rounded = pass(policy, prompt_.stored);
    if (!rounded) return rounded.error();
    if (scheme_.quantizes_weights()) {
      const bool rounded_inputs = recipe_.moments == Moments::rounded_inputs;
      set_formats(weights, rounded_inputs, true, done.report);
      BlockRounder rounder(recipe_, scheme_.weight_format(), pool_);
      auto linears =
          rounder.run(weights, rounded_inputs ? *rounded : exact, streams.quantized, streams.crops);
      if (!linears) return linears.error();
      done.report.linears = std::move(linears).value();
    } else {
      weights = owned(std::move(weights));
    }
    set_formats(weights, true, !scheme_.quantizes_weights(), done.report);
    done.weights = std::move(weights);
    lap("rounding");
    return {};
  }

  // The block in floats as the tuner sees it: inputs and cache rounded, weights not yet.
  [[nodiscard]] tune::SimulatedBlock<T> float_simulation(const BasisBlock& block,
                                                         const FinishedBlock& done) {
    Block floats = dense_view(block);
    set_formats(floats, true, true, done.report);
    const KvEntry entry = done.kv.empty() ? KvEntry{} : done.kv.front();
    auto simulation = simulated<T>(floats, shape(), entry, policy(), pool_);
    begin_with(simulation.cache, prompt_.stored, 0);
    return simulation;
  }

  // Rounds floats that were learned about anew. Where that is better on held-out crops, done
  // becomes it; returns the share of the loss that is left, or 1 for what stays as it was.
  Result<double> round_anew(const BasisBlock& learned, FinishedBlock candidate, BlockPass& exact,
                            const Streams& streams, FinishedBlock& done) {
    if (auto rounded = round(learned, exact, streams, candidate, [](const char*) {}); !rounded)
      return rounded.error();
    const auto before = held_out_loss(done, streams), after = held_out_loss(candidate, streams);
    if (!before) return before.error();
    if (!after) return after.error();
    if (*after >= *before) return 1.0;
    done = std::move(candidate);
    return *after / *before;
  }

  // Learns to smooth the block and goes on with that where it is better: block, power and done are
  // then the smoothed one's.
  Result<void> smooth(BasisBlock& block, SitePower& power, BlockPass& exact, const Streams& streams,
                      FinishedBlock& done) {
    if (!scheme_.quantizes_weights()) return {};
    auto smoothed = smooth_block<T>(
        float_simulation(block, done), {block, power, scheme_.weight_format(), done.report},
        config_, {streams.quantized, streams.exact, streams.crops}, recipe_.tuning, pool_);
    if (!smoothed) return {};
    FinishedBlock candidate;
    candidate.report = done.report;
    for (std::size_t site = 0; site < 4; ++site)
      candidate.report.inputs[site].largest_after = std::move(smoothed->largest[site]);
    const auto gain = round_anew(smoothed->block, std::move(candidate), exact, streams, done);
    if (!gain) return gain.error();
    done.report.smoothing_gain = *gain;
    if (*gain < 1) block = std::move(smoothed->block), power = std::move(smoothed->power);
    return {};
  }

  // The same for branches that become part of the weights; branches beside them then begin at what
  // the rounding left of the merged ones' error.
  Result<void> merge(BasisBlock& block, const SitePower& power, BlockPass& exact,
                     const Streams& streams, FinishedBlock& done) {
    if (!scheme_.quantizes_weights()) return {};
    auto merged = merge_branches<T>(
        float_simulation(block, done), {block, power, scheme_.weight_format(), done.report},
        config_, {streams.quantized, streams.exact, streams.crops}, recipe_.tuning, pool_);
    if (!merged) return merged.error();
    if (!*merged) return {};
    FinishedBlock candidate;
    candidate.report = done.report;
    const auto gain = round_anew(**merged, std::move(candidate), exact, streams, done);
    if (!gain) return gain.error();
    done.report.merging_gain = *gain;
    if (*gain < 1) block = std::move(**merged);
    return {};
  }

  using Statistics = std::vector<ChannelStatistics>;

  Result<BlockPass> pass(const KvPolicy& policy, const PromptCache& prompt) {
    return BlockPass::make(config_, rope_, longest_, policy, prompt, pool_);
  }

  // Moves the float stream on; what the four inputs looked like on the way.
  Result<Statistics> teach(const BasisBlock& block, BlockPass& pass, Streams& streams,
                           BlockReport& report) {
    const Block dense = dense_view(block);
    Statistics statistics;
    for (std::size_t site = 0; site < 4; ++site) {
      statistics.emplace_back(input_width(dense, llama::named_inputs[site].input));
      report.inputs[site].largest_before.assign(
          static_cast<std::size_t>(statistics.back().channels()), 0);
    }
    Matrix<float> x, plain;
    for (int i = 0; i < streams.exact.samples(); ++i) {
      streams.exact.read(i, x);
      pass.run(dense, x.ref(), [&](int index, const llama::Activation& input) {
        if (i >= streams.crops) return;
        const auto site = static_cast<std::size_t>(index);
        statistics[site].add(input.exact());
        if (!basis_.rotates()) return;
        basis_.restore(block, site, input.exact(), plain, pool_);
        add_largest(plain.ref(), report.inputs[site].largest_before);
      });
      if (!std::isfinite(detail::square_sum(x.ref())))
        return Error{Errc::not_finite, "the float model's activations are not finite"};
      streams.exact.write(i, x.ref());
    }
    for (std::size_t site = 0; site < 4 && !basis_.rotates(); ++site)
      report.inputs[site].largest_before = statistics[site].largest;
    return statistics;
  }

  static int input_width(const Block& block, llama::InputForm llama::InputForms::*input) {
    for (const auto& named : llama::named_linears) {
      if (named.input == input) return (block.*named.linear).in();
    }
    return 0;
  }

  // The policy of one layer.
  [[nodiscard]] KvPolicy layer_policy(const std::vector<KvEntry>& entries) const {
    KvPolicy policy = this->policy();
    policy.table = entries;
    return policy;
  }

  // Branches, clips and gains of the block, learned where the recipe says so.
  Result<void> tune(FinishedBlock& done, const BasisBlock& floats, const SitePower& power,
                    const Streams& streams) {
    const KvEntry entry = done.kv.empty() ? KvEntry{} : done.kv.front();
    auto block = simulated<T>(done.weights, shape(), entry, policy(), pool_);
    begin_with(block.cache, prompt_.stored, 0);
    std::optional<TuningData<T>> data;  // a copy of both streams
    if (recipe_.tuning.tunes_blocks() || recipe_.tuning.regresses())
      data.emplace(TuningStreams{streams.quantized, streams.exact, streams.crops},
                   recipe_.tuning.length);
    const tune::RopeAngleTable<T> angles(config_, block.cache.prompt(), recipe_.tuning.length);
    tune::multiply_in(block, recipe_.tuning.products);
    if (recipe_.tuning.rank > 0) {
      const auto samples = data ? std::span(data->training) : std::span<tune::TuningSample<T>>();
      if (auto started = start_branches<T>(block, floats.weights, power, angles.view(), samples,
                                           recipe_.tuning, pool_);
          !started) {
        return started;
      }
    }
    if (recipe_.tuning.tunes_blocks()) {
      const auto phase = tune_block<T>(block, angles.view(), *data, recipe_.tuning, 0, pool_);
      done.report.tuning_gain = phase.before > 0 ? phase.best / phase.before : 1;
    }
    data.reset();
    FinishedBlock tuned = done;
    if (auto taken = take_back(block, tuned.weights, tuned.kv, recipe_.tuning.branch_type); !taken)
      return taken;
    // The base is a candidate to the end: what is stored may differ from what was tuned.
    const auto before = held_out_loss(done, streams), after = held_out_loss(tuned, streams);
    if (!before) return before.error();
    if (!after) return after.error();
    if (*after < *before) {
      done = std::move(tuned);
    } else {
      done.report.tuning_gain = 1;
    }
    return {};
  }

  // Of the block as it will run, over the held-out crops.
  Result<double> held_out_loss(const FinishedBlock& block, const Streams& streams) {
    auto run = pass(layer_policy(block.kv), prompt_.stored);
    if (!run) return run.error();
    double error = 0, power = 0;
    Matrix<float> x, z;
    for (int i = streams.crops; i < streams.quantized.samples(); ++i) {
      streams.quantized.read(i, x), streams.exact.read(i, z);
      run->run(block.weights, x.ref());
      power += bisup::detail::square_sum(z.ref());
      error += bisup::detail::square_difference(x.ref(), z.ref());
    }
    return error / power;
  }

  [[nodiscard]] BlockShape shape() const {
    return {config_.hidden_size,       config_.heads,   config_.kv_heads, config_.head_dim,
            config_.intermediate_size, config_.norm_eps};
  }

  // How the inputs are rounded from now on: not at all, in floats, or to integers.
  void set_formats(Block& block, bool rounded, bool simulate, const BlockReport& report) const {
    for (std::size_t i = 0; i < 4; ++i) {
      llama::InputForm& form = block.inputs.*llama::named_inputs[i].input;
      const llama::InputForm plain = input_form(scheme_, !simulate);
      form.format = rounded ? plain.format : std::nullopt;
      form.simulate = plain.simulate, form.keepers = report.inputs[i].keepers;
      if (form.format) form.format->clip = report.inputs[i].clip;
    }
  }

  // Moves the quantized stream on and compares it with the float one.
  Result<void> advance(FinishedBlock& done, BlockPass& pass, Streams& streams) {
    std::array<double, 2> errors{}, powers{};
    Matrix<float> x, z;
    for (int i = 0; i < streams.quantized.samples(); ++i) {
      streams.quantized.read(i, x), streams.exact.read(i, z);
      pass.run(done.weights, x.ref());
      streams.quantized.write(i, x.ref());
      const std::size_t part = i < streams.crops ? 0 : 1;
      powers[part] += bisup::detail::square_sum(z.ref());
      errors[part] += bisup::detail::square_difference(x.ref(), z.ref());
    }
    if (!std::isfinite(errors[0] + errors[1]))
      return Error{Errc::not_finite, "the quantized block's activations are not finite"};
    done.report.loss = errors[0] / powers[0], done.report.held_out_loss = errors[1] / powers[1];
    return {};
  }

  const llama::Config& config_;
  Scheme scheme_;
  const Recipe& recipe_;
  const ModelBasis& basis_;
  int longest_;
  llama::RopeTable rope_;
  ThreadPool& pool_;
  BlockPrompt prompt_;
};

}  // namespace bisup
