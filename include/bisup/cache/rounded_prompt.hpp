// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is it worth that a stored prompt is exact? rounded_prompt() gives the prompt as attention
// would read it if its tokens were rounded as all others are: the same context, without the
// precision. It remains stored in floats, for measurements only.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/kv_rounding.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/ops/hadamard.hpp>
#include <bisup/pack/codes.hpp>

namespace bisup {

namespace detail {

// One head of one token, in place.
inline void round_head(const KvFormat& how, Clip clip, bool rotate, bool fit,
                       std::span<float> head) {
  if (rotate) hadamard(head);
  const Format format = how.format();
  const std::size_t group =
      how.group == 0 ? head.size() : std::min(head.size(), static_cast<std::size_t>(how.group));
  std::vector<std::uint8_t> codes(group);
  for (std::size_t begin = 0; begin < head.size(); begin += group) {
    const auto x = head.subspan(begin, std::min(group, head.size() - begin));
    GroupParameters p = rounding_parameters(format, x, clip, fit);
    attention_kernels().round_group(x.data(), static_cast<int>(x.size()), rounding_of(format, p),
                                    codes.data());
    p.scale = reading_scale(format, x, p, fit);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = decode(codes[i], p);
  }
  if (rotate) hadamard(head);
}

}  // namespace detail

// Keys and values in `bits` (2, 3, 4, 8), with the groups, clips, rotations and fitted scales of
// `policy`, one scale a token, head and group, not centered; 16: as they are.
[[nodiscard]] inline PromptCache rounded_prompt(const PromptCache& prompt, const KvPolicy& policy,
                                                int bits) {
  BISUP_EXPECTS(KvFormat{.bits = bits}.valid());
  if (prompt.empty() || bits == 16) return prompt;
  PromptCache rounded({prompt.ids().begin(), prompt.ids().end()}, prompt.layers(),
                      prompt.kv_heads(), prompt.head_dim(), prompt.type());
  const auto dim = static_cast<std::size_t>(prompt.head_dim());
  Matrix<float> keys(prompt.tokens(), prompt.width()), values(prompt.tokens(), prompt.width());
  for (int layer = 0; layer < prompt.layers(); ++layer) {
    const DenseView k = prompt.keys(layer), v = prompt.values(layer);
    for (int t = 0; t < prompt.tokens(); ++t) {
      for (int i = 0; i < prompt.width(); ++i) keys(t, i) = k(t, i), values(t, i) = v(t, i);
      for (int head = 0; head < prompt.kv_heads(); ++head) {
        const KvEntry entry = policy.entry(layer, head, prompt.kv_heads());
        const auto round = [&](Matrix<float>& rows, const KvFormat& format, Clip clip, bool turn) {
          detail::round_head({.bits = bits, .group = format.group, .zero = format.zero}, clip, turn,
                             policy.fit_scales,
                             rows.row(t).subspan(static_cast<std::size_t>(head) * dim, dim));
        };
        round(keys, entry.keys, entry.key_clip, policy.rotate_keys);
        round(values, entry.values, entry.value_clip, policy.rotate_values);
      }
    }
    rounded.set(layer, keys.ref(), values.ref());
  }
  return rounded;
}

}  // namespace bisup
