// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a quantized model look like on disk? One .safetensors file that any reader can inspect:
// codes, scales and side tensors; config, tokenizer and chat template as U8 tensors; one JSON
// description under "bisup" in its metadata. artefact_writer.hpp and artefact_reader.hpp follow.

#include <memory>
#include <string>
#include <string_view>

#include <bisup/core/format.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup/io/tensor.hpp>
#include <bisup/io/tokenizer_files.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

// Readers refuse a file of a later schema; a new field that old readers may ignore keeps the
// number. 2: the cache's policy ("kv") and a stored prompt ("prompt"), which 1 had not. 3: biases
// that were learned, where the config has none.
inline constexpr int artefact_schema = 3;

// What is not tensors: how the model was made. Free of times, hosts and paths.
struct Provenance {
  std::string recipe = "rtn";
  std::string float_weights = "f32";  // what "float" means for its source: "Q4_1, Q8_0 dequantized"
  Json details = Json::object();      // calibration data, options
};

struct Artefact {
  llama::Model model;
  TokenizerFiles tokenizer;
  Provenance provenance;
  Json description = {};  // the whole of it, as stored
  std::shared_ptr<const Safetensors> file = {};
};

namespace detail {

[[nodiscard]] inline std::string_view scale_name(Scale scale) {
  return scale == Scale::f32 ? "f32" : scale == Scale::f16 ? "f16" : "bf16";
}
[[nodiscard]] inline ElementType scale_element(Scale scale) {
  return scale == Scale::f32   ? ElementType::f32
         : scale == Scale::f16 ? ElementType::f16
                               : ElementType::bf16;
}

// "prompt.3.keys": [tokens, kv_heads * head_dim], in the form that cache/prompt_cache.hpp defines.
[[nodiscard]] inline std::string prompt_name(int layer, const char* part) {
  return "prompt." + std::to_string(layer) + "." + part;
}

}  // namespace detail

}  // namespace bisup::io
