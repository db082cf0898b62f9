// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do transforms and the tuner work on? The weights of one transformer block as plain matrices:
// float to run, double to prove that a transform is exact. merge.hpp rewrites them.

#include <array>
#include <vector>

#include <bisup/core/matrix.hpp>

namespace bisup {

struct BlockShape {
  int hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0;
  float norm_eps = 1e-5f;
  friend constexpr bool operator==(const BlockShape&, const BlockShape&) = default;
};

template <class T>
struct FloatLinear {
  Matrix<T> weights;    // [out, in]
  std::vector<T> bias;  // [out] or empty
};

template <class T>
struct FloatBlock {
  FloatLinear<T> q, k, v, o, gate, up, down;
  std::vector<T> attention_norm, mlp_norm;  // [hidden]
  std::vector<T> query_norm, key_norm;      // [head_dim] each, or empty (Qwen3 has them)

  // q, k, v, o, gate, up, down.
  [[nodiscard]] std::array<FloatLinear<T>*, 7> linears() {
    return {&q, &k, &v, &o, &gate, &up, &down};
  }
  [[nodiscard]] std::array<const FloatLinear<T>*, 7> linears() const {
    return {&q, &k, &v, &o, &gate, &up, &down};
  }
};

}  // namespace bisup
