// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does the float model know of a prompt? It walks through the float blocks beside the
// calibration streams, and leaves in each layer the keys and values that the quantized attention
// will read: after RoPE, in the recipe's basis (cache/prompt_cache.hpp).

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/block_pass.hpp>
#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/llama/rope_table.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

// Errors: out_of_range (more tokens than the model has positions).
[[nodiscard]] inline Result<void> check_prompt_length(std::size_t tokens, const llama::Config& c) {
  if (tokens <= static_cast<std::size_t>(c.max_positions)) return {};
  return Error{Errc::out_of_range, "a prompt of " + std::to_string(tokens) +
                                       " tokens; the model has " + std::to_string(c.max_positions) +
                                       " positions"};
}

class PromptRecorder {
 public:
  // embedding: the float model's. No ids: there is nothing to record. `config` and `pool` must
  // outlive it. Errors: out_of_range (a token that is none, more tokens than positions).
  static Result<PromptRecorder> make(const llama::Config& config, std::vector<int> ids,
                                     const llama::DenseTensor& embedding, const ModelBasis& basis,
                                     ThreadPool& pool) {
    if (auto fits = check_prompt_length(ids.size(), config); !fits) return fits.error();
    if (auto known = llama::check_ids(ids, config); !known) return known.error();
    PromptRecorder recorder(config, std::move(ids), pool);
    Matrix<float>& x = recorder.stream_;
    x.resize(static_cast<int>(recorder.ids_.size()), config.hidden_size);
    for (int t = 0; t < x.rows(); ++t) {
      const int id = recorder.ids_[static_cast<std::size_t>(t)];
      for (int c = 0; c < x.cols(); ++c) x(t, c) = embedding.view(id, c);
      basis.rotate(x.row(t));
    }
    return recorder;
  }

  [[nodiscard]] bool empty() const noexcept { return ids_.empty(); }
  [[nodiscard]] const std::vector<int>& ids() const noexcept { return ids_; }

  // The prompt in one layer, which is the next one; without a prompt nothing. block: in floats, in
  // the basis. Errors: not_finite, out_of_memory.
  Result<PromptCache> record(const Block& block) {
    if (empty()) return PromptCache();
    auto pass = BlockPass::make(*config_, rope_, static_cast<int>(ids_.size()), {}, {}, *pool_);
    if (!pass) return pass.error();
    pass->run(block, stream_.ref());
    if (!std::isfinite(detail::square_sum(stream_.ref())))
      return Error{Errc::not_finite, "the float model's activations are not finite"};
    PromptCache layer(ids_, 1, config_->kv_heads, config_->head_dim);
    layer.set(0, pass->scratch().k.ref(), pass->scratch().v.ref());
    return layer;
  }

 private:
  PromptRecorder(const llama::Config& config, std::vector<int> ids, ThreadPool& pool)
      : config_(&config),
        ids_(std::move(ids)),
        rope_(config, static_cast<int>(ids_.size())),
        pool_(&pool) {}

  const llama::Config* config_;
  std::vector<int> ids_;
  llama::RopeTable rope_;
  ThreadPool* pool_;
  Matrix<float> stream_;  // [tokens, hidden], behind the layers so far
};

// Layer `layer` of a prompt of all layers.
inline void put_layer(const PromptCache& one, int layer, PromptCache& all) {
  all.set(layer, llama::as_matrix(one.keys(0)).ref(), llama::as_matrix(one.values(0)).ref());
}

}  // namespace bisup
