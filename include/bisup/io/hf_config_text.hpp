// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a config travel inside another file? As the text of a config.json, with the generation
// config's end-of-text ids merged in: parse_hf_config(hf_config_text(c)) gives c back, but for
// rope_factors, which only GGUF files have.

#include <string>
#include <string_view>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/io/hf_config.hpp>
#include <bisup/io/json.hpp>
#include <bisup/llama/config.hpp>

namespace bisup::io {

// Errors name `where`.
[[nodiscard]] inline Result<llama::Config> parse_hf_config(std::string_view text,
                                                           const std::string& where) {
  const auto parsed = parse_json(text, where);
  if (!parsed) return parsed.error();
  if (!parsed->is_object())
    return Error{Errc::malformed, "config.json is not a JSON object", where};
  JsonFields fields(*parsed, where);
  auto config = detail::read_config_fields(fields);
  if (!config) return config.error();
  if (const auto valid = config->validate(); !valid)
    return Error{valid.error().code, valid.error().message, where};
  return config;
}

namespace detail {

[[nodiscard]] inline Json rope_scaling_json(const llama::RopeScaling& s) {
  Json json = {{"factor", s.factor}};
  switch (s.kind) {
    case llama::RopeScalingKind::none: return nullptr;
    case llama::RopeScalingKind::linear: json["rope_type"] = "linear"; break;
    case llama::RopeScalingKind::llama3:
      json["rope_type"] = "llama3";
      json["low_freq_factor"] = s.low_frequency_factor,
      json["high_freq_factor"] = s.high_frequency_factor;
      json["original_max_position_embeddings"] = s.original_max_positions;
      break;
    case llama::RopeScalingKind::yarn:
      json["rope_type"] = "yarn";
      json["beta_fast"] = s.beta_fast, json["beta_slow"] = s.beta_slow;
      json["original_max_position_embeddings"] = s.original_max_positions;
      if (s.attention_factor) json["attention_factor"] = *s.attention_factor;
      break;
  }
  return json;
}

}  // namespace detail

[[nodiscard]] inline std::string hf_config_text(const llama::Config& c) {
  Json json = {{"model_type", c.architecture},
               {"hidden_act", "silu"},
               {"hidden_size", c.hidden_size},
               {"intermediate_size", c.intermediate_size},
               {"num_hidden_layers", c.layers},
               {"num_attention_heads", c.heads},
               {"num_key_value_heads", c.kv_heads},
               {"head_dim", c.head_dim},
               {"vocab_size", c.vocab_size},
               {"max_position_embeddings", c.max_positions},
               {"rms_norm_eps", c.norm_eps},
               {"rope_theta", c.rope_theta},
               {"tie_word_embeddings", c.tied_embeddings},
               {"attention_bias", c.attention_bias},
               {"mlp_bias", c.mlp_bias},
               {"sliding_window", nullptr}};
  if (const Json scaling = detail::rope_scaling_json(c.rope_scaling); !scaling.is_null())
    json["rope_scaling"] = scaling;
  if (c.sliding_window) {
    json["sliding_window"] = *c.sliding_window;
    json["use_sliding_window"] = true,
    json["max_window_layers"] = 0;  // what Qwen reads: every layer
  }
  if (c.bos_id) json["bos_token_id"] = *c.bos_id;
  if (!c.eos_ids.empty()) json["eos_token_id"] = c.eos_ids;
  return json.dump(1);
}

}  // namespace bisup::io
