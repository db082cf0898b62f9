// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a model? Its weights, float or quantized, with the forms their inputs take; immutable,
// shared by any number of sessions. session.hpp runs it; calibrate/ makes a quantized one from a
// float one.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/llama/linear.hpp>

namespace bisup::llama {

struct Model {
  Config config;
  Scheme scheme;          // W16A16: as it was read
  DenseTensor embedding;  // [vocab, hidden]
  std::vector<BlockWeights<AnyLinear>> blocks;
  std::vector<float> final_norm;  // [hidden]
  AnyLinear head;                 // [vocab, hidden]; shares the embedding's memory when tied
  InputForm head_input;
  KvPolicy kv;         // how its sessions remember, unless they are told otherwise
  PromptCache prompt;  // what its sessions begin with; empty: nothing

  [[nodiscard]] BlockShape block_shape() const {
    return {config.hidden_size,       config.heads,   config.kv_heads, config.head_dim,
            config.intermediate_size, config.norm_eps};
  }
};

// The linears of a block with the names that checkpoints give them, in the model's order.
struct NamedLinear {
  const char* name;  // "self_attn.q_proj"
  AnyLinear BlockWeights<AnyLinear>::*linear;
  InputForm InputForms::*input;
};
inline constexpr NamedLinear named_linears[] = {
    {"self_attn.q_proj", &BlockWeights<AnyLinear>::q, &InputForms::attention},
    {"self_attn.k_proj", &BlockWeights<AnyLinear>::k, &InputForms::attention},
    {"self_attn.v_proj", &BlockWeights<AnyLinear>::v, &InputForms::attention},
    {"self_attn.o_proj", &BlockWeights<AnyLinear>::o, &InputForms::output},
    {"mlp.gate_proj", &BlockWeights<AnyLinear>::gate, &InputForms::mlp},
    {"mlp.up_proj", &BlockWeights<AnyLinear>::up, &InputForms::mlp},
    {"mlp.down_proj", &BlockWeights<AnyLinear>::down, &InputForms::down},
};
// Whether the float model has a bias there; others are learned.
[[nodiscard]] constexpr bool has_bias(const Config& c, std::size_t linear) {
  return linear < 3 ? c.attention_bias : linear == 3 ? c.output_bias : c.mlp_bias;
}
// What they read.
struct NamedInput {
  const char* name;
  InputForm InputForms::*input;
};
inline constexpr NamedInput named_inputs[] = {{"attention", &InputForms::attention},
                                              {"output", &InputForms::output},
                                              {"mlp", &InputForms::mlp},
                                              {"down", &InputForms::down}};
struct NamedNorm {
  const char* name;  // "input_layernorm"
  std::vector<float> Norms::*norm;
  bool per_head;  // [head_dim], present only with Config::qk_norm
};
inline constexpr NamedNorm named_norms[] = {
    {"input_layernorm", &Norms::attention, false},
    {"post_attention_layernorm", &Norms::mlp, false},
    {"self_attn.q_norm", &Norms::query, true},
    {"self_attn.k_norm", &Norms::key, true},
};

// "model.layers.3.self_attn.q_proj"
[[nodiscard]] inline std::string layer_name(int layer, const char* part) {
  return "model.layers." + std::to_string(layer) + "." + part;
}

// Where a float model's tensors come from, by Hugging Face's names.
template <class S>
concept TensorSource = requires(const S& source, const std::string& name) {
  { source.config() } -> std::convertible_to<const Config&>;
  { source.tensor(name) } -> std::same_as<Result<DenseTensor>>;
  { source.has(name) } -> std::convertible_to<bool>;
};

// A vector (a norm's weight, a bias) as floats.
[[nodiscard]] inline std::vector<float> as_vector(const DenseTensor& tensor) {
  std::vector<float> values;
  for (int r = 0; r < tensor.view.rows; ++r) {
    for (int c = 0; c < tensor.view.cols; ++c) values.push_back(tensor.view(r, c));
  }
  return values;
}

template <TensorSource S>
Result<std::vector<float>> read_vector(const S& source, const std::string& name) {
  auto tensor = source.tensor(name);
  if (!tensor) return tensor.error();
  return as_vector(*tensor);
}

// One linear with its bias, if the source has one.
template <TensorSource S>
Result<AnyLinear> read_linear(const S& source, const std::string& name) {
  auto weight = source.tensor(name + ".weight");
  if (!weight) return weight.error();
  std::vector<float> bias;
  if (source.has(name + ".bias")) {
    auto read = read_vector(source, name + ".bias");
    if (!read) return read.error();
    bias = std::move(read).value();
  }
  return AnyLinear(std::move(weight).value(), std::move(bias));
}

template <TensorSource S>
Result<BlockWeights<AnyLinear>> read_block(const S& source, int layer) {
  BlockWeights<AnyLinear> block;
  for (const auto& [part, linear, input] : named_linears) {
    auto read = read_linear(source, layer_name(layer, part));
    if (!read) return read.error();
    block.*linear = std::move(read).value();
  }
  for (const auto& [part, norm, per_head] : named_norms) {
    if (per_head && !source.config().qk_norm) continue;
    auto read = read_vector(source, layer_name(layer, part) + ".weight");
    if (!read) return read.error();
    block.norms.*norm = std::move(read).value();
  }
  return block;
}

// A float model as it lies in its source; tensors that are mapped stay mapped.
template <TensorSource S>
Result<Model> read_model(const S& source) {
  Model model;
  model.config = source.config();
  auto embedding = source.tensor("model.embed_tokens.weight");
  if (!embedding) return embedding.error();
  model.embedding = std::move(embedding).value();
  for (int layer = 0; layer < model.config.layers; ++layer) {
    auto block = read_block(source, layer);
    if (!block) return block.error();
    model.blocks.push_back(std::move(block).value());
  }
  auto norm = read_vector(source, "model.norm.weight");
  if (!norm) return norm.error();
  model.final_norm = std::move(norm).value();
  if (model.config.tied_embeddings) {
    model.head = AnyLinear(model.embedding);
  } else {
    auto head = read_linear(source, "lm_head");
    if (!head) return head.error();
    model.head = std::move(head).value();
  }
  return model;
}

}  // namespace bisup::llama
