// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does calibration run one block over a crop? As llama::forward does, step by step, so that it
// can look at what each linear reads, and stop and go on between the steps.

#include <utility>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/llama/rope_table.hpp>

namespace bisup {

using Block = llama::BlockWeights<llama::AnyLinear>;

class BlockPass {
 public:
  // `policy` is that of one layer; `prompt` holds one layer. `rope` and `pool` must outlive it.
  static Result<BlockPass> make(const llama::Config& c, const llama::RopeTable& rope, int longest,
                                const KvPolicy& policy, const PromptCache& prompt,
                                ThreadPool& pool) {
    auto cache = KvCache::allocate({.layers = 1,
                                    .kv_heads = c.kv_heads,
                                    .head_dim = c.head_dim,
                                    .capacity = prompt.tokens() + longest,
                                    .window = c.sliding_window.value_or(0)},
                                   policy, prompt);
    if (!cache) return cache.error();
    return BlockPass(c, rope, std::move(cache).value(), pool);
  }

  // Everything; x: [tokens, hidden], in place. visit(input, prepared) sees the inputs in the order
  // of llama::named_inputs.
  template <class Visit>
  void run(const Block& block, MatrixRef<float> x, Visit&& visit) {
    inputs(block, x, visit);
    llama::add_down(shape_, block, s_, *pool_, x);
  }
  // For the inputs alone: the last linear is not applied. x becomes the residual stream behind
  // attention.
  template <class Visit>
  void inputs(const Block& block, MatrixRef<float> x, Visit&& visit) {
    attend(block, x);
    visit(0, attention_);
    llama::add_attention(shape_, block, s_.attended.ref(), s_, *pool_, x);
    visit(1, s_.input);
    llama::project_mlp(shape_, block, s_, *pool_, x);
    visit(2, s_.input);
    s_.input.prepare(s_.gate.ref(), block.inputs.down, *pool_);
    visit(3, s_.input);
  }
  void run(const Block& block, MatrixRef<float> x) {
    run(block, x, [](int, const llama::Activation&) {});
  }

  // The steps. What they return is valid until the next one.
  const llama::Activation& attention_input(const Block& block, MatrixRef<const float> x) {
    return normed(x, block.norms.attention, block.inputs.attention);
  }
  // Attention's output, [tokens, heads * head_dim].
  MatrixRef<const float> attend(const Block& block, MatrixRef<const float> x) {
    const int first = cache_.prompt_tokens();
    cache_.truncate(first);
    const llama::Batch batch{first, x.rows()};
    llama::project_attention(shape_, block, *rope_, batch, s_, *pool_, x);
    std::swap(attention_, s_.input);
    llama::attend(shape_, 0, batch, cache_, s_, *pool_);
    return s_.attended.ref();
  }
  const llama::Activation& output_input(const Block& block, MatrixRef<const float> attended) {
    s_.input.prepare(attended, block.inputs.output, *pool_);
    return s_.input;
  }
  void add_attention(const Block& block, MatrixRef<const float> attended, MatrixRef<float> x) {
    llama::add_attention(shape_, block, attended, s_, *pool_, x);
  }
  const llama::Activation& mlp_input(const Block& block, MatrixRef<const float> x) {
    return normed(x, block.norms.mlp, block.inputs.mlp);
  }
  const llama::Activation& down_input(const Block& block, MatrixRef<const float> x) {
    llama::project_mlp(shape_, block, s_, *pool_, x);
    s_.input.prepare(s_.gate.ref(), block.inputs.down, *pool_);
    return s_.input;
  }
  // What the last attend() read.
  [[nodiscard]] const llama::Scratch& scratch() const noexcept { return s_; }

 private:
  BlockPass(const llama::Config& c, const llama::RopeTable& rope, KvCache cache, ThreadPool& pool)
      : shape_{c.hidden_size, c.heads, c.kv_heads, c.head_dim, c.intermediate_size, c.norm_eps},
        rope_(&rope),
        pool_(&pool),
        cache_(std::move(cache)) {}

  const llama::Activation& normed(MatrixRef<const float> x, const std::vector<float>& weight,
                                  const llama::InputForm& form) {
    s_.normed.resize(x.rows(), x.cols());
    rms_norm(x, weight, shape_.norm_eps, s_.normed.ref(), *pool_);
    s_.input.prepare(s_.normed.ref(), form, *pool_);
    return s_.input;
  }

  BlockShape shape_;
  const llama::RopeTable* rope_;
  ThreadPool* pool_;
  KvCache cache_;
  llama::Scratch s_;
  llama::Activation attention_;  // what q, k and v read, kept while attention runs
};

}  // namespace bisup
