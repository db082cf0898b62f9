// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a quantized model saved? save_artefact writes everything that running it needs into one
// file, under a temporary name first.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/core/version.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/hf_config_text.hpp>
#include <bisup/io/kv_policy_json.hpp>
#include <bisup/io/safetensors_writer.hpp>
#include <bisup/io/tensor_describer.hpp>

namespace bisup::io {

// Requires a packed model (no simulated inputs). Errors: cannot_write, naming the file.
inline Result<void> save_artefact(const std::filesystem::path& path, const llama::Model& model,
                                  const TokenizerFiles& tokenizer, const Provenance& provenance) {
  detail::TensorDescriber contents;
  Json inputs = Json::array();
  const std::string config = hf_config_text(model.config);
  contents.dense("model.embed_tokens.weight", model.embedding.view);
  for (int layer = 0; layer < model.config.layers; ++layer) {
    const auto& block = model.blocks[static_cast<std::size_t>(layer)];
    for (const auto& [name, form] : llama::named_inputs) {
      BISUP_EXPECTS(!(block.inputs.*form).simulate || !model.scheme.quantizes_weights());
    }
    inputs.push_back(contents.block(layer, block));
  }
  contents.vector("model.norm.weight", model.final_norm);
  const bool tied =
      model.head.dense() != nullptr && model.head.dense()->view.data == model.embedding.view.data;
  if (!tied) contents.linear("lm_head", model.head);
  for (int layer = 0; !model.prompt.empty() && layer < model.config.layers; ++layer) {
    contents.dense(detail::prompt_name(layer, "keys"), model.prompt.keys(layer));
    contents.dense(detail::prompt_name(layer, "values"), model.prompt.values(layer));
  }
  contents.text("config.json", config);
  contents.text("tokenizer.json", tokenizer.tokenizer_json);
  contents.text("tokenizer.gguf", tokenizer.gguf_metadata);
  contents.text("tokenizer_config.json", tokenizer.tokenizer_config);
  contents.text("chat_template.jinja", tokenizer.chat_template);

  const Json head_input = contents.input("lm_head", model.head_input);
  const Json description = {{"schema", artefact_schema},
                            {"writer", "bisup " BISUP_VERSION_STRING},
                            {"scheme", model.scheme.name()},
                            {"recipe", provenance.recipe},
                            {"float_weights", provenance.float_weights},
                            {"details", provenance.details},
                            {"rope_factors", model.config.rope_factors},
                            {"packed", contents.packed_formats()},
                            {"ranks", contents.ranks()},
                            {"inputs", inputs},
                            {"head_input", head_input},
                            {"kv", describe(model.kv)},
                            {"prompt", model.prompt.ids()},
                            {"crc32c", contents.checksums()}};
  return write_safetensors(path, contents.tensors(),
                           {{"bisup", description.dump()}, {"format", "bisup"}});
}

}  // namespace bisup::io
