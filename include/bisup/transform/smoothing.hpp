// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a scale per channel move from activations into weights? At each site what writes a
// channel is divided by s and what reads it is multiplied, and the block computes the same.
//
//   site                    written, divided   read, multiplied   if a Hadamard stands between
//   smooth_attention_input  attention norm     q, k, v columns    none does
//   smooth_mlp_input        MLP norm           gate, up columns   none does
//   smooth_values           v rows, bias       o columns          exact if all heads share s
//   smooth_intermediate     up rows, bias      down columns       not exact
//   smooth_keys             k rows, bias       q rows, bias       exact: it comes after RoPE
//
// Where it is not exact, scale_columns after the rotation was absorbed, and divide the rotated
// input by s at run time. In a rotated stream fold_norms left norms of 1, which take 1 / s again.

#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/transform/merge.hpp>

namespace bisup {

// W = diag(s)^-1 W, b = b / s.
template <class T>
void divide_outputs(FloatLinear<T>& linear, std::span<const T> s) {
  BISUP_EXPECTS(s.size() == static_cast<std::size_t>(linear.weights.rows()));
  for (std::size_t i = 0; i < s.size(); ++i) {
    for (T& w : linear.weights.row(static_cast<int>(i))) w /= s[i];
    if (!linear.bias.empty()) linear.bias[i] /= s[i];
  }
}

namespace detail {

template <class T>
void divide(std::vector<T>& x, std::span<const T> s) {
  BISUP_EXPECTS(x.size() == s.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] /= s[i];
}

template <class T>
std::vector<T> inverses(std::span<const T> s) {
  std::vector<T> result;
  for (const T v : s) result.push_back(1 / v);
  return result;
}

// s of [kv_heads, count], or of [count] for all, spread over `heads` heads of which every
// heads / kv_heads neighbours share a KV head.
template <class T>
std::vector<T> over_heads(std::span<const T> s, int kv_heads, int count, int heads) {
  const auto size = static_cast<std::size_t>(count);
  BISUP_EXPECTS(s.size() == size || s.size() == size * static_cast<std::size_t>(kv_heads));
  std::vector<T> result;
  for (int h = 0; h < heads; ++h) {
    const int kv_head = s.size() == size ? 0 : h / (heads / kv_heads);
    const auto of_head = s.subspan(static_cast<std::size_t>(kv_head) * size, size);
    result.insert(result.end(), of_head.begin(), of_head.end());
  }
  return result;
}

}  // namespace detail

// s: [hidden]
template <class T>
void smooth_attention_input(FloatBlock<T>& block, std::span<const T> s) {
  detail::divide(block.attention_norm, s);
  for (auto* linear : {&block.q, &block.k, &block.v}) scale_columns(linear->weights.ref(), s);
}

// s: [hidden]
template <class T>
void smooth_mlp_input(FloatBlock<T>& block, std::span<const T> s) {
  detail::divide(block.mlp_norm, s);
  for (auto* linear : {&block.gate, &block.up}) scale_columns(linear->weights.ref(), s);
}

// s: [kv_heads * head_dim], or [head_dim] shared by all heads, which stays exact with an online
// Hadamard across heads. The query head h reads the KV head h div (heads / kv_heads).
template <class T>
void smooth_values(FloatBlock<T>& block, const BlockShape& shape, std::span<const T> s) {
  divide_outputs<T>(block.v, detail::over_heads(s, shape.kv_heads, shape.head_dim, shape.kv_heads));
  scale_columns<T>(block.o.weights.ref(),
                   detail::over_heads(s, shape.kv_heads, shape.head_dim, shape.heads));
}

// s: [intermediate]. The gate is left alone: it stands inside the nonlinearity.
template <class T>
void smooth_intermediate(FloatBlock<T>& block, std::span<const T> s) {
  divide_outputs(block.up, s);
  scale_columns(block.down.weights.ref(), s);
}

// s: [kv_heads * head_dim / 2], or [head_dim / 2] shared by all heads: one scale for both values of
// a pair that RoPE turns, or they would mix. A block with q and k norms (one weight for all heads)
// takes the shared form into the norms.
template <class T>
void smooth_keys(FloatBlock<T>& block, const BlockShape& shape, std::span<const T> s) {
  const int half = shape.head_dim / 2;
  BISUP_EXPECTS(s.size() % static_cast<std::size_t>(half) == 0);
  std::vector<T> tied;  // [kv_heads or 1, head_dim]
  for (std::size_t at = 0; at < s.size(); at += static_cast<std::size_t>(half)) {
    const auto of_head = s.subspan(at, static_cast<std::size_t>(half));
    for (int twice = 0; twice < 2; ++twice) tied.insert(tied.end(), of_head.begin(), of_head.end());
  }
  if (!block.key_norm.empty()) {
    detail::divide<T>(block.key_norm, tied);
    detail::divide<T>(block.query_norm, detail::inverses<T>(tied));
    return;
  }
  const auto spread = [&](int heads) {
    return detail::over_heads<T>(tied, shape.kv_heads, shape.head_dim, heads);
  };
  divide_outputs<T>(block.k, spread(shape.kv_heads));
  divide_outputs<T>(block.q, detail::inverses<T>(spread(shape.heads)));
}

}  // namespace bisup
