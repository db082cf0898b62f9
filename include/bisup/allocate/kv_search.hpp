// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which layers' keys and values deserve more bits? kv_sensitivity measures how far predictions
// move, as KL divergence, when one layer's keys, or its values, alone are rounded; search_kv spends
// a budget of bits where that hurts most. Divergences of small errors in different layers add up,
// nearly, so the sum is what is minimised.

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/allocate/knapsack.hpp>
#include <bisup/core/result.hpp>
#include <bisup/evaluate/divergence.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

struct KvSearchOptions {
  std::vector<int> bits = {2, 3, 4, 8};
  double budget = 3;           // bits per number on average, scales not counted: a uniform KV3's
  WindowOptions windows = {};  // of the text
  int every = 4;               // one position in so many is compared
};

// [layers][keys, values][options.bits]: nats a position.
using KvSensitivity = std::vector<std::array<std::vector<double>, 2>>;

namespace detail {

// The float pass over one window: the input of each block, and log probabilities at the positions
// that are compared.
struct KvReference {
  std::vector<Matrix<float>> inputs;  // [layers], [tokens, hidden]
  Matrix<float> logits;               // [compared, vocab]
};

class KvProbe {
 public:
  // Windows of up to `context` tokens, behind the model's stored prompt.
  KvProbe(const llama::Model& model, int context, int every, ThreadPool& pool)
      : model_(model),
        every_(every),
        pool_(pool),
        rope_(model.config, model.prompt.tokens() + context) {}

  Result<KvReference> reference(std::span<const int> ids) {
    KvReference r;
    Matrix<float> x(static_cast<int>(ids.size()), model_.config.hidden_size);
    llama::embed(model_, ids, x.ref());
    auto cache = allocate(x.rows(), {});
    if (!cache) return cache.error();
    for (int layer = 0; layer < model_.config.layers; ++layer) {
      r.inputs.push_back(x.clone());
      block(layer, *cache, x);
    }
    r.logits = logits(x);
    return r;
  }

  // KL of the reference's predictions from those with the policy's cache in `layer` alone: the mean
  // over compared positions.
  Result<double> divergence(const KvReference& reference, int layer, const KvPolicy& policy) {
    Matrix<float> x = reference.inputs[static_cast<std::size_t>(layer)].clone();
    auto cache = allocate(x.rows(), policy);
    if (!cache) return cache.error();
    for (int l = layer; l < model_.config.layers; ++l) block(l, *cache, x);
    const Matrix<float> ours = logits(x);
    std::vector<double> kl(static_cast<std::size_t>(ours.rows()));
    pool_.parallel_for(ours.rows(), [&](int t, int) {
      kl[static_cast<std::size_t>(t)] =
          compare_position(reference.logits.row(t), ours.row(t), 0).kl;
    });
    double sum = 0;
    for (const double k : kl) sum += k;
    return sum / static_cast<double>(kl.size());
  }

 private:
  [[nodiscard]] Result<KvCache> allocate(int tokens, const KvPolicy& policy) const {
    return KvCache::allocate(llama::cache_shape(model_, model_.prompt.tokens() + tokens), policy,
                             model_.prompt);
  }
  void block(int layer, KvCache& cache, Matrix<float>& x) {
    llama::forward(model_.block_shape(), model_.blocks[static_cast<std::size_t>(layer)], rope_,
                   layer, {model_.prompt.tokens(), x.rows()}, cache, scratch_, pool_, x.ref());
  }
  Matrix<float> logits(const Matrix<float>& x) {
    const int rows = std::max(1, x.rows() / every_);
    Matrix<float> hidden(rows, x.cols()), out(rows, model_.config.vocab_size);
    for (int r = 0; r < rows; ++r)
      std::copy_n(x.row(std::min((r + 1) * every_, x.rows()) - 1).data(), x.cols(),
                  hidden.row(r).data());
    rms_norm(hidden.ref(), model_.final_norm, model_.config.norm_eps, hidden.ref(), pool_);
    scratch_.input.prepare(std::as_const(hidden).ref(), model_.head_input, pool_);
    model_.head.apply(scratch_.input, out.ref(), pool_);
    return out;
  }

  const llama::Model& model_;
  int every_;
  ThreadPool& pool_;
  llama::RopeTable rope_;
  llama::Scratch scratch_;
};

}  // namespace detail

// `policy` says all but the bits: segments, rotation, fit, groups, clips. A stored prompt of the
// model stands before every window. Errors: as perplexity(), and those of KvCache::allocate.
[[nodiscard]] inline Result<KvSensitivity> kv_sensitivity(const llama::Model& model,
                                                          std::span<const int> ids,
                                                          const KvPolicy& policy,
                                                          const KvSearchOptions& options,
                                                          ThreadPool& pool = ThreadPool::shared(),
                                                          const Progress& progress = {}) {
  const llama::Config& c = model.config;
  const auto windows = cut_windows(ids.size(), c.max_positions, options.windows);
  if (!windows) return windows.error();
  if (auto known = llama::check_ids(ids, c); !known) return known.error();
  BISUP_EXPECTS(options.every >= 1 && options.every <= windows->context);
  KvSensitivity sensitivity(static_cast<std::size_t>(c.layers));
  for (auto& layer : sensitivity) layer.fill(std::vector<double>(options.bits.size()));
  detail::KvProbe probe(model, windows->context, options.every, pool);
  KvPolicy one = policy;
  const auto entries = static_cast<std::size_t>(c.layers * c.kv_heads);
  for (int w = 0; w < windows->count; ++w) {
    const auto reference =
        probe.reference(behind_prompt(windows->at(ids, w), model.prompt, options.windows.bos));
    if (!reference) return reference.error();
    for (int layer = 0; layer < c.layers; ++layer) {
      for (const int side : {0, 1}) {
        for (std::size_t b = 0; b < options.bits.size(); ++b) {
          one.table.assign(entries, {});
          for (int head = 0; head < c.kv_heads; ++head) {
            KvEntry entry = policy.entry(layer, head, c.kv_heads);
            entry.keys.bits = entry.values.bits = options.bits[b];
            (side == 0 ? entry.values : entry.keys) = {};
            one.table[static_cast<std::size_t>(layer * c.kv_heads + head)] = entry;
          }
          const auto kl = probe.divergence(*reference, layer, one);
          if (!kl) return kl.error();
          if (!std::isfinite(*kl))
            return Error{Errc::not_finite, "the logits in window " + std::to_string(w)};
          sensitivity[static_cast<std::size_t>(layer)][static_cast<std::size_t>(side)][b] +=
              *kl / windows->count;
        }
      }
      if (progress && !progress(w * c.layers + layer + 1, windows->count * c.layers))
        return Error{Errc::interrupted, "stopped"};
    }
  }
  return sensitivity;
}

// `policy` with a table that spends options.budget where it helps. Errors: out_of_range for a
// budget below the fewest bits.
[[nodiscard]] inline Result<KvPolicy> search_kv(const KvSensitivity& sensitivity, int kv_heads,
                                                const KvPolicy& policy,
                                                const KvSearchOptions& options) {
  std::vector<std::vector<Choice>> items;
  for (const auto& layer : sensitivity) {
    for (const auto& side : layer) {
      std::vector<Choice>& item = items.emplace_back();
      for (std::size_t b = 0; b < side.size(); ++b) item.push_back({options.bits[b], side[b]});
    }
  }
  const auto chosen = choose(
      items, static_cast<int>(std::floor(options.budget * static_cast<double>(items.size()))));
  if (!chosen) return chosen.error();
  KvPolicy found = policy;
  found.table.clear();
  for (std::size_t layer = 0; layer < sensitivity.size(); ++layer) {
    for (int head = 0; head < kv_heads; ++head) {
      KvEntry entry = policy.entry(static_cast<int>(layer), head, kv_heads);
      entry.keys.bits = options.bits[static_cast<std::size_t>((*chosen)[2 * layer])];
      entry.values.bits = options.bits[static_cast<std::size_t>((*chosen)[2 * layer + 1])];
      found.table.push_back(entry);
    }
  }
  return found;
}

}  // namespace bisup
