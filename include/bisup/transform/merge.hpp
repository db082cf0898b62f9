// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a rotation disappear into the weights? Each function rewrites a block so that it
// computes the same from rotated inputs. In a residual stream norms are folded first, then it is
// rotated: RMS norms commute with rotations only when all their weights are 1. Never remove the
// mean of embeddings on the way, as some published code does: that changes what the model computes.
// Scales per channel: smoothing.hpp.

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/transform/rotation.hpp>

namespace bisup {

// W = W diag(s), for an input that arrives divided by s.
template <class T>
void scale_columns(MatrixRef<T> weights, std::span<const T> s) {
  BISUP_EXPECTS(s.size() == static_cast<std::size_t>(weights.cols()));
  for (int r = 0; r < weights.rows(); ++r) {
    for (std::size_t c = 0; c < s.size(); ++c) weights.row_data(r)[c] *= s[c];
  }
}

// The norm's weights go into the linears that read it and become 1. The attention norm into q, k, v
// and the other into gate, up; q and k norms act within heads and stay.
template <class T>
void fold_norms(FloatBlock<T>& block) {
  for (auto* linear : {&block.q, &block.k, &block.v}) {
    scale_columns<T>(linear->weights.ref(), block.attention_norm);
  }
  for (auto* linear : {&block.gate, &block.up}) {
    scale_columns<T>(linear->weights.ref(), block.mlp_norm);
  }
  std::fill(block.attention_norm.begin(), block.attention_norm.end(), T{1});
  std::fill(block.mlp_norm.begin(), block.mlp_norm.end(), T{1});
}

// The same for the norm before lm_head, which must have been untied from the embedding.
template <class T>
void fold_final_norm(MatrixRef<T> head, std::span<T> norm) {
  scale_columns<T>(head, norm);
  std::fill(norm.begin(), norm.end(), T{1});
}

// The linear reads x Q instead of x: W = W Q. An online rotation before o or down, or a
// permutation, goes here; so do the rows of an embedding (which then writes x Q) and of lm_head.
template <class T, Rotation R>
void absorb_input_rotation(MatrixRef<T> weights, const R& rotation, ThreadPool& pool) {
  rotate_rows(weights, rotation, pool);
}

// The linear writes y Q instead of y: W = Q^T W, b = b Q.
template <class T, Rotation R>
void absorb_output_rotation(FloatLinear<T>& linear, const R& rotation, ThreadPool& pool) {
  rotate_columns(linear.weights.ref(), rotation, pool);
  if (!linear.bias.empty()) rotation.apply(std::span<T>(linear.bias));
}

// The block reads and adds to x Q instead of x. Requires norms of 1: see fold_norms.
template <class T, Rotation R>
void rotate_residual(FloatBlock<T>& block, const R& rotation, ThreadPool& pool) {
  const auto is_one = [](T weight) { return weight == T{1}; };
  BISUP_EXPECTS(std::all_of(block.attention_norm.begin(), block.attention_norm.end(), is_one) &&
                std::all_of(block.mlp_norm.begin(), block.mlp_norm.end(), is_one));
  for (auto* linear : {&block.q, &block.k, &block.v, &block.gate, &block.up}) {
    absorb_input_rotation(linear->weights.ref(), rotation, pool);
  }
  absorb_output_rotation(block.o, rotation, pool);
  absorb_output_rotation(block.down, rotation, pool);
}

// Every head's values are rotated where v writes them and turned back where o reads the heads'
// sums; what is remembered in between is rotated. Requires rotation.size() == head_dim.
template <class T, Rotation R>
void rotate_values(FloatBlock<T>& block, const BlockShape& shape, const R& rotation,
                   ThreadPool& pool) {
  const int head_dim = shape.head_dim;
  BISUP_EXPECTS(rotation.size() == head_dim);
  for (int h = 0; h < shape.kv_heads; ++h) {
    rotate_columns(block.v.weights.ref().rows(h * head_dim, head_dim), rotation, pool);
    if (block.v.bias.empty()) continue;
    rotation.apply(
        std::span<T>(block.v.bias)
            .subspan(static_cast<std::size_t>(h * head_dim), static_cast<std::size_t>(head_dim)));
  }
  for (int h = 0; h < shape.heads; ++h) {
    absorb_input_rotation(block.o.weights.ref().cols(h * head_dim, head_dim), rotation, pool);
  }
}

}  // namespace bisup
