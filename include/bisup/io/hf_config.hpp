// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a Hugging Face config.json say about a model? Its llama::Config, or the name of the
// first thing in it that this library does not compute; absent keys mean what transformers makes of
// them.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/json_fields.hpp>
#include <bisup/llama/config.hpp>

namespace bisup::io {

namespace detail {

// YaRN's factor on cosines and sines if the file gives two scales instead (transformers'
// modeling_rope_utils, after DeepSeek); with neither, Config's default applies.
[[nodiscard]] inline std::optional<double> yarn_attention_factor(JsonFields& fields,
                                                                 double factor) {
  if (fields.find("attention_factor") != nullptr) return fields.number("attention_factor");
  const double scale = fields.number("mscale", 0.0), all = fields.number("mscale_all_dim", 0.0);
  if (scale == 0 || all == 0) return std::nullopt;
  const double grown = factor <= 1 ? 0.0 : 0.1 * std::log(factor);
  return (grown * scale + 1) / (grown * all + 1);
}

// `fields` is rope_scaling of older files or rope_parameters of newer ones.
[[nodiscard]] inline llama::RopeScaling read_rope_scaling(JsonFields& fields, int max_positions) {
  using Kind = llama::RopeScalingKind;
  llama::RopeScaling scaling;
  const std::string kind = fields.text("rope_type", fields.text("type", "default").c_str());
  if (kind == "default") return scaling;
  scaling.kind = kind == "linear"   ? Kind::linear
                 : kind == "llama3" ? Kind::llama3
                 : kind == "yarn"   ? Kind::yarn
                                    : Kind::none;
  if (scaling.kind == Kind::none) {
    fields.fail(Errc::unsupported, "the rope scaling is of type " + in_quotes(kind) +
                                       "; linear, llama3 and yarn are read");
    return scaling;
  }
  if (scaling.kind == Kind::linear) {
    scaling.factor = fields.number("factor");
  } else if (scaling.kind == Kind::llama3) {
    scaling.factor = fields.number("factor");
    scaling.low_frequency_factor = fields.number("low_freq_factor");
    scaling.high_frequency_factor = fields.number("high_freq_factor");
    scaling.original_max_positions = fields.integer("original_max_position_embeddings");
  } else {
    scaling.original_max_positions =
        fields.integer("original_max_position_embeddings", max_positions);
    scaling.factor = fields.number("factor", 1.0 * max_positions / scaling.original_max_positions);
    scaling.beta_fast = fields.number("beta_fast", 32.0);
    scaling.beta_slow = fields.number("beta_slow", 1.0);
    scaling.attention_factor = yarn_attention_factor(fields, scaling.factor);
    if (!fields.boolean("truncate", true)) {
      fields.fail(Errc::unsupported, "YaRN with 'truncate' false is not read");
    }
  }
  return scaling;
}

inline void read_rope(JsonFields& fields, llama::Config& config) {
  config.rope_theta = fields.number("rope_theta", 10000.0);
  double rotated_part = fields.number("partial_rotary_factor", 1.0);
  // transformers: the older key wins over the newer one, unless it is empty.
  const Json* older = fields.find("rope_scaling");
  const bool use_older = older != nullptr && !(older->is_object() && older->empty());
  const char* key = use_older ? "rope_scaling" : "rope_parameters";
  if (const Json* parameters = fields.find(key)) {
    if (!parameters->is_object()) return fields.wrong(key, "is not a JSON object");
    for (const Json& element : *parameters) {
      if (element.is_object()) {
        return fields.fail(Errc::unsupported, in_quotes(key) + " differs from layer to layer");
      }
    }
    JsonFields inner = fields.inside(*parameters);
    config.rope_theta = inner.number("rope_theta", config.rope_theta);
    rotated_part = inner.number("partial_rotary_factor", rotated_part);
    config.rope_scaling = read_rope_scaling(inner, config.max_positions);
    if (inner.error()) fields.fail(inner.error()->code, inner.error()->message);
  }
  if (rotated_part != 1) {
    fields.fail(Errc::unsupported, "'partial_rotary_factor' is " + std::to_string(rotated_part));
  }
}

// How many layers have a window, by `layer_types` or by Qwen's `max_window_layers`.
[[nodiscard]] inline int count_sliding_layers(JsonFields& fields, int layers) {
  const bool switched_on = fields.boolean("use_sliding_window", false);
  int count = 0;
  if (const Json* types = fields.find("layer_types")) {
    if (!types->is_array() || types->size() != static_cast<std::size_t>(std::max(layers, 0))) {
      return fields.wrong("layer_types", "does not list a type for each layer"), 0;
    }
    for (const Json& type : *types) {
      if (type == "sliding_attention") {
        ++count;
      } else if (type != "full_attention") {
        return fields.fail(Errc::unsupported,
                           "'layer_types' has something but full_attention "
                           "and sliding_attention"),
               0;
      }
    }
    if (count > 0 && !switched_on) {
      fields.wrong("layer_types", "has a sliding window that 'use_sliding_window' forbids");
    }
  } else if (switched_on) {
    count = layers - std::min(std::max(fields.integer("max_window_layers", 28), 0), layers);
  }
  return count;
}

inline void read_sliding_window(JsonFields& fields, llama::Config& config) {
  if (config.architecture == "llama") return;
  // transformers: an absent key means 4096, null means none.
  const int window = fields.integer("sliding_window", 4096);
  const bool none = fields.is_null("sliding_window");
  if (config.architecture == "mistral") {
    if (!none) config.sliding_window = window;
    return;
  }
  const int sliding = count_sliding_layers(fields, config.layers);
  if (sliding == 0 || none) return;
  if (sliding != config.layers) {
    return fields.fail(Errc::unsupported, "only some layers have a sliding window");
  }
  config.sliding_window = window;
}

inline void read_sizes(JsonFields& fields, llama::Config& config) {
  const bool llama = config.architecture == "llama", qwen3 = config.architecture == "qwen3";
  config.hidden_size = fields.integer("hidden_size");
  config.intermediate_size = fields.integer("intermediate_size");
  config.layers = fields.integer("num_hidden_layers");
  config.heads = fields.integer("num_attention_heads");
  // Absent means one a head for llama; the other architectures' defaults fit no other model's
  // sizes.
  config.kv_heads = llama ? fields.integer("num_key_value_heads", config.heads)
                          : fields.integer("num_key_value_heads");
  config.vocab_size = fields.integer("vocab_size");
  config.max_positions = fields.integer("max_position_embeddings");
  config.norm_eps = static_cast<float>(std::clamp(fields.number("rms_norm_eps", 1e-6), 0.0, 1.0));
  if (fields.find("head_dim") != nullptr) {
    config.head_dim = fields.integer("head_dim");
  } else if (qwen3) {
    config.head_dim = 128;  // transformers' default, whatever the hidden size
  } else if (config.heads > 0 && config.hidden_size % config.heads == 0) {
    config.head_dim = config.hidden_size / config.heads;
  } else {
    fields.fail(Errc::out_of_range, "has no 'head_dim', and hidden_size is no multiple of heads");
  }
}

inline void read_switches(JsonFields& fields, llama::Config& config) {
  const bool llama = config.architecture == "llama", qwen2 = config.architecture == "qwen2",
             qwen3 = config.architecture == "qwen3";
  const bool bias = (llama || qwen3) && fields.boolean("attention_bias", false);
  config.attention_bias = bias || qwen2;
  config.output_bias = bias;
  config.mlp_bias = llama && fields.boolean("mlp_bias", false);
  config.qk_norm = qwen3;
  config.tied_embeddings = fields.boolean("tie_word_embeddings", false);
}

// Tokens that end a text: those of both files, because either may be the older one.
inline void add_eos(JsonFields& fields, llama::Config& config) {
  for (const int id : fields.integers("eos_token_id")) {
    if (std::find(config.eos_ids.begin(), config.eos_ids.end(), id) == config.eos_ids.end()) {
      config.eos_ids.push_back(id);
    }
  }
}

[[nodiscard]] inline Result<llama::Config> read_config_fields(JsonFields& fields) {
  llama::Config config;
  if (const Json* quantized = fields.find("quantization_config")) {
    const Json method = quantized->is_object() ? quantized->value("quant_method", Json()) : Json();
    fields.fail(Errc::unsupported,
                "has a 'quantization_config'" +
                    (method.is_string() ? " of " + in_quotes(method.get<std::string>()) : "") +
                    ": the weights are quantized already; begin with the float model");
  }
  if (fields.find("model_type") == nullptr) fields.fail(Errc::missing, "has no 'model_type'");
  config.architecture = fields.text("model_type", "");
  if (config.architecture != "llama" && config.architecture != "mistral" &&
      config.architecture != "qwen2" && config.architecture != "qwen3") {
    fields.fail(Errc::unsupported, "the model_type is " + in_quotes(config.architecture) +
                                       "; llama, mistral, qwen2 and qwen3 are read");
  }
  if (fields.error()) return *fields.error();  // what follows would be told in another's words
  const std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu") {
    fields.fail(Errc::unsupported, "the hidden_act is " + in_quotes(activation) + ", not silu");
  }
  read_sizes(fields, config);
  read_switches(fields, config);
  read_rope(fields, config);
  read_sliding_window(fields, config);
  if (fields.find("bos_token_id") != nullptr) config.bos_id = fields.integer("bos_token_id");
  add_eos(fields, config);
  if (fields.error()) return *fields.error();
  return config;
}

[[nodiscard]] inline Result<Json> read_json_object(const std::filesystem::path& path) {
  // A config of megabytes is something else under its name.
  const auto text = read_text_file(path, 16 << 20);
  if (!text) return text.error();
  auto parsed = parse_json(*text, path.string());
  if (parsed && !parsed->is_object()) {
    return Error{Errc::malformed, "is not a JSON object", path.string()};
  }
  return parsed;
}

}  // namespace detail

// Reads config.json, and generation_config.json if it lies beside it.
[[nodiscard]] inline Result<llama::Config> read_hf_config(const std::filesystem::path& path) {
  const auto parsed = detail::read_json_object(path);
  if (!parsed) return parsed.error();
  JsonFields fields(*parsed, path.string());
  auto config = detail::read_config_fields(fields);
  if (!config) return config.error();

  const auto beside = path.parent_path() / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(beside, ignored)) {
    const auto generation = detail::read_json_object(beside);
    if (!generation) return generation.error();
    JsonFields more(*generation, beside.string());
    detail::add_eos(more, *config);
    if (more.error()) return *more.error();
  }
  if (const auto valid = config->validate(); !valid) {
    return Error{valid.error().code, valid.error().message, path.string()};
  }
  return config;
}

}  // namespace bisup::io
