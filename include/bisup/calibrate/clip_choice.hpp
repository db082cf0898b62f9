// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much of a group's range should the codes cover? A line search on held-out inputs: the clip
// that damages the outputs of the linears (or of attention) least. At 3 bits it is about 0.75, at 8
// bits 1.

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/quant/fake_quant.hpp>

namespace bisup {

struct ClipFound {
  float clip = 1;
  double damage = 0, unclipped = 0;  // what was minimised, at `clip` and at 1
};

inline constexpr std::array clip_candidates = {1.0f,  0.95f, 0.9f,  0.85f, 0.8f,  0.75f, 0.7f,
                                               0.65f, 0.6f,  0.55f, 0.5f,  0.45f, 0.4f};

// damage(clip) is tried from 1 downwards until it has risen twice in a row.
template <class Damage>
[[nodiscard]] ClipFound search_clip(Damage&& damage) {
  ClipFound best;
  double last = 0;
  int rises = 0;
  for (const float clip : clip_candidates) {
    const double here = damage(clip);
    if (clip == 1) best = {1, here, here}, last = here;
    if (here < best.damage) best.clip = clip, best.damage = here;
    rises = here > last ? rises + 1 : 0;
    if (rises == 2) break;
    last = here;
  }
  return best;
}

namespace detail {

// sum of squares of all elements, in double, row by row.
[[nodiscard]] inline double square_sum(MatrixRef<const float> x) {
  double sum = 0;
  for (int r = 0; r < x.rows(); ++r) {
    for (const float v : x.row(r)) sum += static_cast<double>(v) * static_cast<double>(v);
  }
  return sum;
}

// sum of (a - b)^2.
[[nodiscard]] inline double square_difference(MatrixRef<const float> a, MatrixRef<const float> b) {
  double sum = 0;
  for (int r = 0; r < a.rows(); ++r) {
    for (int c = 0; c < a.cols(); ++c) {
      const double d = static_cast<double>(a(r, c)) - static_cast<double>(b(r, c));
      sum += d * d;
    }
  }
  return sum;
}

}  // namespace detail

// x: prepared inputs, [tokens, in]; readers: the weights [out, in] that read them. Damage: the sum
// of
// |(x^ - x) W^T|^2.
[[nodiscard]] inline ClipFound choose_activation_clip(MatrixRef<const float> x,
                                                      ActivationFormat format, int keepers,
                                                      std::span<const DenseView> readers,
                                                      ThreadPool& pool) {
  BISUP_EXPECTS(keepers >= 0 && keepers < x.cols());
  const int body = x.cols() - keepers;
  Matrix<float> error(x.rows(), x.cols()), out;
  return search_clip([&](float clip) {
    format.clip = clip;
    for (int t = 0; t < x.rows(); ++t) std::copy_n(x.row_data(t), x.cols(), error.row(t).data());
    fake_quantize(error.ref().cols(0, body), format, pool);
    if (keepers > 0) fake_quantize(error.ref().cols(body, keepers), int8_token, pool);
    for (int t = 0; t < x.rows(); ++t) {
      float* row = error.row(t).data();
      for (int i = 0; i < x.cols(); ++i) row[i] -= x(t, i);
    }
    double damage = 0;
    for (const DenseView& weights : readers) {
      out.resize(x.rows(), weights.rows);
      multiply(weights, error.ref(), out.ref(), pool);
      damage += detail::square_sum(out.ref());
    }
    return damage;
  });
}

// What attention reads: after RoPE, [tokens, heads * head_dim] and [tokens, kv_heads * head_dim].
struct AttentionInputs {
  MatrixRef<const float> queries, keys, values;
};

struct KvClips {
  ClipFound keys, values;
};

// Damage: the sum of squared differences of attention's output to that with an exact cache; for
// keys with exact values, for values with exact keys. `policy` is one layer's, its table empty;
// `prompt`, of one layer, comes before all tokens.
[[nodiscard]] inline Result<KvClips> choose_kv_clips(const AttentionInputs& inputs,
                                                     CacheShape shape, const KvPolicy& policy,
                                                     const PromptCache& prompt, ThreadPool& pool) {
  BISUP_EXPECTS(policy.table.empty());
  shape.layers = 1, shape.capacity = prompt.tokens() + inputs.keys.rows();
  Matrix<float> exact(inputs.queries.rows(), inputs.queries.cols()),
      out(exact.rows(), exact.cols());
  const auto run = [&](const KvPolicy& with, Matrix<float>& into) -> Result<void> {
    auto cache = KvCache::allocate(shape, with, prompt);
    if (!cache) return cache.error();
    cache->append(0, inputs.keys, inputs.values, pool);
    cache->attend(0, inputs.queries, into.ref(), pool);
    return {};
  };
  if (auto ran = run({}, exact); !ran) return ran.error();
  const auto damage = [&](const KvPolicy& with) {
    const auto ran = run(with, out);
    BISUP_EXPECTS(ran.has_value());  // a cache of this size was just allocated
    for (int t = 0; t < out.rows(); ++t) {
      for (int i = 0; i < out.cols(); ++i) out(t, i) -= exact(t, i);
    }
    return detail::square_sum(out.ref());
  };
  KvClips found;
  KvPolicy keys = policy, values = policy;
  keys.values = {}, values.keys = {};
  if (!policy.keys.exact()) {
    found.keys = search_clip([&](float c) { return keys.key_clip = {c, c}, damage(keys); });
  }
  if (!policy.values.exact()) {
    found.values = search_clip([&](float c) { return values.value_clip = {c, c}, damage(values); });
  }
  return found;
}

}  // namespace bisup
