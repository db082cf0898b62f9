// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are all blocks tuned together? KL of the quantized model's logits against the float model's,
// over weight scales, branches, biases, clips of inputs and cache, and norm gains: this is where
// most of what tuning can give comes from. Only the blocks' inputs are kept on the way up; each
// block is run again on the way down.
//
// A step learns from a segment of a sample, behind the keys and values that the segments before it
// left: truncated backpropagation through time, as Transformer-XL (arXiv 1901.02860) has it. Far
// positions cost what near ones do but for attention, and have to be learned: rounded keys disturb
// it the more, the more of them there are.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/biases.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/logit_loss.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/phase.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/segment_walk.hpp>
#include <bisup/tune/simulated_block.hpp>
#include <bisup/tune/weight_scales.hpp>

namespace bisup::tune {

// One crop: its tokens and what the float model's final norm gives, [tokens, hidden], both the
// caller's.
template <class T>
struct TextSample {
  std::span<const int> ids;
  MatrixRef<const T> teacher;
};
// Writes the embeddings of tokens, [tokens, hidden]. They are looked up for each step: those of all
// crops together are as large as the teachers.
template <class T>
using Embed = std::function<void(std::span<const int> ids, MatrixRef<T> into)>;

struct EndToEndRates {
  double low_rank = 2e-3, clips = 2e-3, norm_gains = 5e-4, scales = 0,
         biases = 0;  // 0: not learned
};

// Few steps follow each other through a loss that falls fast, so gradients' squares are forgotten
// sooner than AdamW's own default does.
inline constexpr AdamWOptions end_to_end_adamw = {.beta2 = 0.95};

struct EndToEndOptions {
  PhaseOptions phase = {.steps = 100, .evaluations = 4, .adamw = end_to_end_adamw};
  EndToEndRates rates = {};
  std::uint64_t seed = 0;
  int segment = 256;  // tokens that a step learns from
  // Keeps what every block's backward pass needs instead of running the block again: a quarter
  // faster, for about 50 KB a token and block of SmolLM2's size.
  bool keep_activations = false;
};

template <class T>
class EndToEnd {
 public:
  // Blocks are changed in place; their weights stay as they are, but for learned scales.
  // final_norm: [hidden].
  EndToEnd(std::span<SimulatedBlock<T>> blocks, const RopeAngles<T>& angles,
           std::span<T> final_norm, Embed<T> embed, LogitLoss<T> loss,
           std::span<const TextSample<T>> training, std::span<const TextSample<T>> held_out,
           const EndToEndOptions& options, ThreadPool& pool)
      : blocks_(blocks),
        angles_(angles),
        final_norm_(final_norm),
        embed_(std::move(embed)),
        loss_(std::move(loss)),
        training_(training),
        held_out_(held_out),
        options_(options),
        pool_(pool),
        walk_(lengths(training), options.segment, options.seed),
        gradients_(blocks.size()),
        final_norm_gradient_(final_norm.size()),
        inputs_(blocks.size() + 1),
        activations_(options.keep_activations ? blocks.size() : 1),
        behind_(blocks.size()),
        held_out_behind_(blocks.size()) {
    BISUP_EXPECTS(!blocks.empty() && !training.empty() && !held_out.empty());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      gradients_[i].clear(blocks[i]);
      refresh(blocks[i], pool);
    }
  }

  // The groups of all blocks, with the rates of the options.
  [[nodiscard]] std::vector<ParameterGroup<T>> groups() {
    std::vector<ParameterGroup<T>> all;
    const EndToEndRates& rates = options_.rates;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (rates.scales > 0)
        all.push_back(weight_scales(blocks_[i], gradients_[i], rates.scales, pool_));
      if (rates.low_rank > 0) all.push_back(low_rank(blocks_[i], gradients_[i], rates.low_rank));
      if (rates.biases > 0) all.push_back(biases(blocks_[i], gradients_[i], rates.biases));
      if (rates.clips > 0) {
        all.push_back(activation_clips(blocks_[i], gradients_[i], rates.clips));
        all.push_back(cache_clips(blocks_[i], gradients_[i], rates.clips));
      }
      if (rates.norm_gains > 0) {
        all.push_back(norm_gains(blocks_[i], gradients_[i], rates.norm_gains));
      }
    }
    if (rates.norm_gains > 0) {
      ParameterGroup<T> last{
          .name = "final norm", .rate = rates.norm_gains, .wanted = {.norm_gains = true}};
      last.add(final_norm_, final_norm_gradient_);
      all.push_back(std::move(last));
    }
    return all;
  }

  // Mean KL on held-out crops with the blocks as they are.
  [[nodiscard]] double held_out_loss() {
    double sum = 0;
    for (const auto& sample : held_out_) {
      const int tokens = sample.teacher.rows();
      for (int n = 0; n < segments_of(tokens, options_.segment); ++n) {
        const Segment segment = segment_of(0, tokens, n, options_.segment);
        const TextSample<T> part = part_of(sample, segment);
        begin_behind(segment, held_out_behind_);
        run(part, segment.first, [&](std::size_t i) { end_behind(i, segment, held_out_behind_); });
        sum += loss_(normed_.ref(), part.teacher, {}, pool_) * segment.tokens / tokens;
      }
    }
    return sum / static_cast<double>(held_out_.size());
  }

  // Learns the groups' parameters (groups() or any other), which end as the best on held-out crops,
  // the start included.
  PhaseReport run_phase(std::span<const ParameterGroup<T>> groups,
                        std::function<bool(int, int)> progress = {},
                        const PhaseMemory<T>& memory = {}) {
    const Wanted wanted = wanted_by(groups);
    BISUP_EXPECTS(!wanted.weight_clips && !wanted.smoothing);
    PhaseWork work;
    work.learn = [&](int step) { return learn(step, wanted); };
    work.held_out = [&] { return held_out_loss(); };
    work.whole = [&](int step) { return walk_.at(step).first == 0; };
    work.changed = [&](bool weights) {
      for (std::size_t i = 0; i < blocks_.size() && weights; ++i) refresh(blocks_[i], pool_);
    };
    work.progress = std::move(progress);
    return tune::run_phase<T>(groups, options_.phase, work, memory);
  }

 private:
  [[nodiscard]] BlockActivations<T>& activations(std::size_t block) {
    return activations_[options_.keep_activations ? block : 0];
  }
  [[nodiscard]] MatrixRef<const T> input(std::size_t block) const { return inputs_[block].ref(); }
  [[nodiscard]] T norm_eps() const { return static_cast<T>(blocks_[0].shape.norm_eps); }

  [[nodiscard]] static std::vector<int> lengths(std::span<const TextSample<T>> samples) {
    std::vector<int> all;
    for (const auto& sample : samples) all.push_back(sample.teacher.rows());
    return all;
  }
  [[nodiscard]] static TextSample<T> part_of(const TextSample<T>& sample, const Segment& segment) {
    return {sample.ids.subspan(static_cast<std::size_t>(segment.first),
                               static_cast<std::size_t>(segment.tokens)),
            sample.teacher.rows(segment.first, segment.tokens)};
  }

  // What a block's cache holds before a segment: the stored prompt and the segments before it, as
  // they are read. No gradient goes there.
  struct Behind {
    Matrix<T> keys, values;  // [prompt + tokens, kv_heads * head_dim]
    int sinks = 0;           // first tokens of the segment that stay exact
  };
  void exchange(std::size_t block, Behind& behind) {
    std::swap(blocks_[block].cache.prompt_keys, behind.keys);
    std::swap(blocks_[block].cache.prompt_values, behind.values);
    std::swap(blocks_[block].cache.sinks, behind.sinks);
  }
  // All of a block's passes over a segment are between these two.
  void begin_behind(const Segment& segment, std::vector<Behind>& behind) {
    for (std::size_t i = 0; i < blocks_.size() && segment.first > 0; ++i) {
      behind[i].sinks = std::max(0, blocks_[i].cache.sinks - segment.first);
      exchange(i, behind[i]);
      BISUP_EXPECTS(blocks_[i].cache.prompt() >= segment.first);
    }
  }
  void end_behind(std::size_t block, const Segment& segment, std::vector<Behind>& behind) {
    if (segment.first > 0) exchange(block, behind[block]);
    if (segment.last) return;
    std::swap(behind[block].keys, activations(block).keys);
    std::swap(behind[block].values, activations(block).values);
  }

  // Tokens from position `first` on behind the prompt; done(block) after each.
  template <class Done>
  void run(const TextSample<T>& sample, int first, Done&& done) {
    const int tokens = sample.teacher.rows(), hidden = sample.teacher.cols();
    inputs_[0].resize(tokens, hidden);
    embed_(sample.ids, inputs_[0].ref());
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      inputs_[i + 1].resize(tokens, hidden);
      forward<T>(blocks_[i], angles_.rows(first, tokens), input(i), activations(i),
                 inputs_[i + 1].ref(), pool_);
      done(i);
    }
    normed_.resize(tokens, hidden);
    rms_norm<T>(inputs_.back().ref(), final_norm_, norm_eps(), normed_.ref(), pool_);
  }

  double learn(int step, const Wanted& wanted) {
    const Segment segment = walk_.at(step);
    const TextSample<T> part =
        part_of(training_[static_cast<std::size_t>(segment.sample)], segment);
    begin_behind(segment, behind_);
    run(part, segment.first, [](std::size_t) {});
    g_.resize(normed_.rows(), normed_.cols());
    const double loss = loss_(normed_.ref(), part.teacher, g_.ref(), pool_);
    std::fill(final_norm_gradient_.begin(), final_norm_gradient_.end(), T(0));
    rms_norm_gradient<T>(std::as_const(inputs_.back()).ref(), final_norm_, norm_eps(), g_.ref(),
                         g_.ref(), final_norm_gradient_, inverse_roots_, pool_);
    const auto at = angles_.rows(segment.first, segment.tokens);
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      BlockActivations<T>& a = activations(i);
      if (!options_.keep_activations) forward<T>(blocks_[i], at, input(i), a, {}, pool_);
      gradients_[i].clear(blocks_[i]);
      Wanted here = wanted;
      here.input = i > 0;
      backward<T>(blocks_[i], at, a, g_.ref(), here, gradients_[i], scratch_, pool_);
      end_behind(i, segment, behind_);
    }
    return loss;
  }

  std::span<SimulatedBlock<T>> blocks_;
  RopeAngles<T> angles_;
  std::span<T> final_norm_;
  Embed<T> embed_;
  LogitLoss<T> loss_;
  std::span<const TextSample<T>> training_, held_out_;
  EndToEndOptions options_;
  ThreadPool& pool_;
  SegmentWalk walk_;
  std::vector<BlockGradient<T>> gradients_;
  std::vector<T> final_norm_gradient_, inverse_roots_;
  std::vector<Matrix<T>> inputs_;  // of each block, and of the final norm
  std::vector<BlockActivations<T>> activations_;
  std::vector<Behind> behind_, held_out_behind_;
  BlockScratch<T> scratch_;
  Matrix<T> normed_, g_;
};

}  // namespace bisup::tune
