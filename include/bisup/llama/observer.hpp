// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who wants to see inside a forward pass? Statistics, error metrics and the tuner are observers:
// they are called with a site and the tensor at it. None costs nothing.

#include <cstdint>

#include <bisup/core/matrix.hpp>

namespace bisup::llama {

enum class Site : std::uint8_t {
  block_input,      // [tokens, hidden]: the residual stream
  attention_input,  // [tokens, hidden]: what q, k and v read, before it is quantized
  queries,
  keys,          // [tokens, heads * head_dim], [tokens, kv_heads * head_dim]: after RoPE
  values,        // [tokens, kv_heads * head_dim]
  output_input,  // [tokens, heads * head_dim]: what o reads
  mlp_input,     // [tokens, hidden]: what gate and up read
  down_input,    // [tokens, intermediate]
  block_output,  // [tokens, hidden]
};

struct None {
  void operator()(Site, MatrixRef<const float>) const noexcept {}
};

}  // namespace bisup::llama
