// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tensors does a model consist of? Their names as Hugging Face spells them and the shapes
// that the config implies; a file that has all of these and no others is a model of that config.

#include <string>
#include <vector>

#include <bisup/llama/config.hpp>

namespace bisup::llama {

struct NamedShape {
  std::string name;
  int rows, cols;  // of a vector [1, cols]
  bool vector = false;
};

namespace detail {

inline void append_layer(const Config& c, int layer, std::vector<NamedShape>& tensors) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const auto linear = [&](const char* part, int out, int in, bool bias) {
    tensors.push_back({prefix + part + ".weight", out, in});
    if (bias) tensors.push_back({prefix + part + ".bias", 1, out, true});
  };
  const auto norm = [&](const char* part, int size) {
    tensors.push_back({prefix + part + ".weight", 1, size, true});
  };
  const int queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  norm("input_layernorm", c.hidden_size);
  linear("self_attn.q_proj", queries, c.hidden_size, c.attention_bias);
  linear("self_attn.k_proj", keys, c.hidden_size, c.attention_bias);
  linear("self_attn.v_proj", keys, c.hidden_size, c.attention_bias);
  linear("self_attn.o_proj", c.hidden_size, queries, c.output_bias);
  if (c.qk_norm) norm("self_attn.q_norm", c.head_dim), norm("self_attn.k_norm", c.head_dim);
  norm("post_attention_layernorm", c.hidden_size);
  linear("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
  linear("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
  linear("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
}

}  // namespace detail

// In the order in which a token meets them. A tied lm_head is not listed. Requires a valid config.
[[nodiscard]] inline std::vector<NamedShape> tensor_names(const Config& config) {
  std::vector<NamedShape> tensors;
  tensors.push_back({"model.embed_tokens.weight", config.vocab_size, config.hidden_size});
  for (int layer = 0; layer < config.layers; ++layer) detail::append_layer(config, layer, tensors);
  tensors.push_back({"model.norm.weight", 1, config.hidden_size, true});
  if (!config.tied_embeddings) {
    tensors.push_back({"lm_head.weight", config.vocab_size, config.hidden_size});
  }
  return tensors;
}

}  // namespace bisup::llama
