// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a model come to know a prompt by heart? store_prompt reads it once with everything exact
// and keeps the keys and values of every layer; with them as Model::prompt, sessions begin behind
// it.

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/llama/session.hpp>

namespace bisup::llama {

// ids: at least one. A prompt that the model has already stands before them and stays in what is
// returned. Errors: out_of_range (ids or positions beyond the model's), out_of_memory.
[[nodiscard]] inline Result<PromptCache> store_prompt(const Model& model, std::span<const int> ids,
                                                      DType type = DType::f16,
                                                      ThreadPool& pool = ThreadPool::shared()) {
  BISUP_EXPECTS(!ids.empty());
  if (auto known = check_ids(ids, model.config); !known) return known.error();
  const Config& c = model.config;
  const PromptCache& before = model.prompt;
  auto session = Session::make(model, before.tokens() + static_cast<int>(ids.size()), {}, pool);
  if (!session) return session.error();
  std::vector<int> all(before.ids().begin(), before.ids().end());
  all.insert(all.end(), ids.begin(), ids.end());
  PromptCache prompt(all, c.layers, c.kv_heads, c.head_dim, type);
  Matrix<float> keys(prompt.tokens(), prompt.width()), values(prompt.tokens(), prompt.width());
  const auto copy = [&](MatrixRef<const float> from, Matrix<float>& into) {
    for (int t = 0; t < from.rows(); ++t)
      std::copy_n(from.row_data(t), from.cols(), into.row(before.tokens() + t).data());
  };
  int layer = 0;
  (void)session->forward(ids, [&](Site site, MatrixRef<const float> x) {
    if (site == Site::keys) copy(x, keys);
    if (site != Site::values) return;
    copy(x, values);
    for (int t = 0; t < before.tokens(); ++t) {
      for (int i = 0; i < prompt.width(); ++i) {
        keys(t, i) = before.keys(layer)(t, i), values(t, i) = before.values(layer)(t, i);
      }
    }
    prompt.set(layer++, keys.ref(), values.ref());
  });
  return prompt;
}

// Lets a reference begin as `model` does, with the same tokens: read by itself, unless it has
// stored them already. Errors: those of store_prompt.
[[nodiscard]] inline Result<void> share_prompt(const Model& model, Model& reference,
                                               ThreadPool& pool = ThreadPool::shared()) {
  const auto ids = model.prompt.ids(), theirs = reference.prompt.ids();
  if (std::equal(ids.begin(), ids.end(), theirs.begin(), theirs.end())) return {};
  reference.prompt = {};
  if (ids.empty()) return {};
  auto prompt = store_prompt(reference, ids, model.prompt.type(), pool);
  if (!prompt) return prompt.error();
  reference.prompt = std::move(prompt).value();
  return {};
}

}  // namespace bisup::llama
