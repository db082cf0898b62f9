// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a GGUF file say about its model? The llama::Config in its metadata, or the name of the
// first thing that this library does not compute. Biases, norms and tying show in its tensors.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/gguf.hpp>
#include <bisup/io/gguf_blocks.hpp>
#include <bisup/llama/config.hpp>

namespace bisup::io {

namespace detail {

// Takes typed values out of the metadata and remembers the first thing that is wrong with it.
class GgufFields {
 public:
  GgufFields(const Gguf& file, std::string prefix) : file_(&file), prefix_(std::move(prefix)) {}

  [[nodiscard]] bool has(const std::string& key) const { return file_->find(prefix_ + key); }
  // A required one if there is no `fallback`. An array of equal integers, one a layer, counts as
  // one.
  int integer(const std::string& key, std::optional<int> fallback = {}) {
    if (fallback && !has(key)) return *fallback;
    const GgufValue* value = file_->find(prefix_ + key);
    if (value != nullptr && value->is_array()) return uniform(key);
    const auto read = file_->integer(prefix_ + key);
    return read ? narrowed(key, *read) : (fail(read.error()), 0);
  }
  double number(const std::string& key, std::optional<double> fallback = {}) {
    if (fallback && !has(key)) return *fallback;
    const auto read = file_->number(prefix_ + key);
    return read ? *read : (fail(read.error()), 0.0);
  }
  std::string text(const std::string& key, const char* fallback) {
    if (!has(key)) return fallback;
    const auto read = file_->string(prefix_ + key);
    return read ? std::string(*read) : (fail(read.error()), std::string());
  }

  void fail(Error error) {
    if (!error_) error_ = std::move(error);
  }
  void unsupported(std::string message) {
    fail(Error{Errc::unsupported, std::move(message), file_->path()});
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  int narrowed(const std::string& key, std::int64_t value) {
    if (value > std::numeric_limits<int>::max() || value < std::numeric_limits<int>::min()) {
      fail(Error{Errc::out_of_range,
                 "the metadata " + in_quotes(prefix_ + key) + " is " + std::to_string(value),
                 file_->path()});
      return 0;
    }
    return static_cast<int>(value);
  }
  int uniform(const std::string& key) {
    const auto read = file_->integers(prefix_ + key);
    if (!read) return fail(read.error()), 0;
    if (read->empty() || std::ranges::count(*read, read->front()) != std::ranges::ssize(*read)) {
      return unsupported(in_quotes(prefix_ + key) + " differs from layer to layer"), 0;
    }
    return narrowed(key, read->front());
  }

  const Gguf* file_;
  std::string prefix_;
  std::optional<Error> error_;
};

[[nodiscard]] inline llama::RopeScaling read_rope_scaling(GgufFields& fields, int max_positions) {
  using Kind = llama::RopeScalingKind;
  llama::RopeScaling scaling;
  const std::string kind = fields.text("rope.scaling.type", "none");
  if (kind == "none") return scaling;
  if (kind != "linear" && kind != "yarn") {
    fields.unsupported("the rope scaling is of type " + in_quotes(kind) +
                       "; linear and yarn are read");
    return scaling;
  }
  scaling.factor = fields.number("rope.scaling.factor");
  // Files that name a type and a factor of 1 or 0 scale nothing.
  if (scaling.factor == 0 || scaling.factor == 1) return {};
  scaling.kind = kind == "linear" ? Kind::linear : Kind::yarn;
  if (scaling.kind == Kind::linear) return scaling;
  scaling.original_max_positions =
      fields.integer("rope.scaling.original_context_length", max_positions);
  scaling.beta_fast = fields.number("rope.scaling.yarn_beta_fast", 32.0);
  scaling.beta_slow = fields.number("rope.scaling.yarn_beta_slow", 1.0);
  // llama.cpp multiplies its attention factor onto YaRN's own; transformers' replaces it.
  const double attention = fields.number("rope.scaling.attn_factor", 1.0);
  if (attention != 1) scaling.attention_factor = attention * (0.1 * std::log(scaling.factor) + 1);
  for (const char* key : {"yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"}) {
    const std::string full = std::string("rope.scaling.") + key;
    if (fields.has(full)) fields.unsupported("the metadata " + in_quotes(full) + " is not read");
  }
  return scaling;
}

// Llama 3.1 and later: the scaling of each pair's frequency, worked out when the file was made.
[[nodiscard]] inline Result<std::vector<float>> read_rope_factors(const Gguf& file, int head_dim) {
  const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");
  if (tensor == nullptr) return std::vector<float>();
  if (tensor->rows() != 1 || tensor->cols() != head_dim / 2 || !is_readable(tensor->type)) {
    return Error{Errc::wrong_shape,
                 "tensor 'rope_freqs.weight' has the shape " + describe(tensor->shape) +
                     " and not one factor for each of " + std::to_string(head_dim / 2) + " pairs",
                 file.path()};
  }
  std::vector<float> factors(static_cast<std::size_t>(tensor->cols()));
  dequantize(tensor->type, tensor->bytes, factors);
  return factors;
}

inline void read_sizes(const Gguf& file, GgufFields& fields, llama::Config& config) {
  config.hidden_size = fields.integer("embedding_length");
  config.intermediate_size = fields.integer("feed_forward_length");
  config.layers = fields.integer("block_count");
  config.heads = fields.integer("attention.head_count");
  config.kv_heads = fields.integer("attention.head_count_kv", config.heads);
  config.max_positions = fields.integer("context_length");
  config.norm_eps =
      static_cast<float>(std::clamp(fields.number("attention.layer_norm_rms_epsilon"), 0.0, 1.0));
  config.rope_theta = fields.number("rope.freq_base", 10000.0);
  const int derived = config.heads > 0 ? config.hidden_size / config.heads : 0;
  config.head_dim = fields.integer("attention.key_length", derived);
  if (fields.integer("attention.value_length", derived) != config.head_dim) {
    fields.unsupported("keys and values have different lengths");
  }
  if (fields.integer("rope.dimension_count", config.head_dim) != config.head_dim) {
    fields.unsupported("rotates a part of each head");
  }
  if (fields.integer("expert_count", 0) > 0) fields.unsupported("is a mixture of experts");
  const int window = fields.integer("attention.sliding_window", 0);
  if (window != 0) config.sliding_window = window;
  // The vocabulary's length is that of the embedding, whatever the tokenizer says.
  if (const GgufTensor* embedding = file.find_tensor("token_embd.weight")) {
    config.vocab_size = static_cast<int>(
        std::min<std::int64_t>(embedding->rows(), std::numeric_limits<int>::max()));
  } else {
    fields.fail(Error{Errc::missing, "has no tensor 'token_embd.weight'", file.path()});
  }
}

inline void read_tokens(GgufFields& tokens, llama::Config& config) {
  if (tokens.has("bos_token_id")) config.bos_id = tokens.integer("bos_token_id");
  // The end of a text, of a turn and of a message all end an answer.
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    if (!tokens.has(key)) continue;
    const int id = tokens.integer(key);
    if (std::ranges::find(config.eos_ids, id) == config.eos_ids.end()) config.eos_ids.push_back(id);
  }
}

}  // namespace detail

[[nodiscard]] inline Result<llama::Config> read_gguf_config(const Gguf& file) {
  const auto architecture = file.string("general.architecture");
  if (!architecture) return architecture.error();
  llama::Config config;
  config.architecture = *architecture;
  if (*architecture != "llama" && *architecture != "qwen2" && *architecture != "qwen3") {
    return Error{
        Errc::unsupported,
        "the architecture is " + in_quotes(*architecture) + "; llama, qwen2 and qwen3 are read",
        file.path()};
  }
  detail::GgufFields fields(file, config.architecture + ".");
  detail::GgufFields tokens(file, "tokenizer.ggml.");
  detail::read_sizes(file, fields, config);
  config.rope_scaling = detail::read_rope_scaling(fields, config.max_positions);
  detail::read_tokens(tokens, config);
  const auto has = [&](const char* name) { return file.find_tensor(name) != nullptr; };
  config.attention_bias = has("blk.0.attn_q.bias");
  config.output_bias = has("blk.0.attn_output.bias");
  config.mlp_bias = has("blk.0.ffn_gate.bias");
  config.qk_norm = config.architecture == "qwen3";
  config.tied_embeddings = !has("output.weight");
  for (const auto& error : {fields.error(), tokens.error()}) {
    if (error) return *error;
  }
  auto factors = detail::read_rope_factors(file, config.head_dim);
  if (!factors) return factors.error();
  config.rope_factors = std::move(factors).value();
  if (const auto valid = config.validate(); !valid) {
    return Error{valid.error().code, valid.error().message, file.path()};
  }
  return config;
}

}  // namespace bisup::io
