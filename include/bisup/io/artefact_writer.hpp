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

#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/version.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/hf_config_text.hpp>
#include <bisup/io/kv_policy_json.hpp>
#include <bisup/io/safetensors_writer.hpp>

namespace bisup::io {

namespace detail {

inline ElementType element_of(DType type) {
  return type == DType::f32   ? ElementType::f32
         : type == DType::f16 ? ElementType::f16
                              : ElementType::bf16;
}

// Collects tensors and their descriptions before anything is written.
class ArtefactContents {
 public:
  void dense(const std::string& name, const DenseView& view) {
    add({.name = name,
         .type = element_of(view.type),
         .shape = {view.rows, view.cols},
         .bytes = {static_cast<const std::byte*>(view.data), view.bytes()}});
  }
  void vector(const std::string& name, std::span<const float> values) {
    if (values.empty()) return;
    add({.name = name,
         .type = ElementType::f32,
         .shape = {static_cast<std::int64_t>(values.size())},
         .bytes = std::as_bytes(values)});
  }
  void text(const std::string& name, const std::string& bytes) {
    if (bytes.empty()) return;
    add({.name = name,
         .type = ElementType::u8,
         .shape = {static_cast<std::int64_t>(bytes.size())},
         .bytes = std::as_bytes(std::span(bytes))});
  }
  void linear(const std::string& name, const llama::AnyLinear& linear) {
    if (linear.dense() != nullptr) {
      dense(name + ".weight", linear.dense()->view);
    } else {
      packed(name, linear.packed()->panels());
    }
    vector(name + ".bias", linear.bias());
  }

  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[nodiscard]] const Json& packed_formats() const { return packed_; }
  [[nodiscard]] const Json& checksums() const { return checksums_; }

 private:
  void packed(const std::string& name, const PackedPanels& p) {
    const PackedShape& s = p.shape;
    const auto scales = static_cast<std::int64_t>(s.scale_count());
    const auto bytes = [](const void* data, std::size_t size) {
      return std::span(static_cast<const std::byte*>(data), size);
    };
    add({.name = name + ".codes",
         .type = ElementType::u8,
         .shape = {static_cast<std::int64_t>(s.code_bytes())},
         .bytes = bytes(p.codes, s.code_bytes())});
    add({.name = name + ".scales",
         .type = scale_element(s.format.scale),
         .shape = {scales},
         .bytes = bytes(p.scales, s.scale_count() *
                                      static_cast<std::size_t>(bisup::bytes_of(s.format.scale)))});
    if (s.format.affine()) {
      add({.name = name + ".zeros",
           .type = ElementType::u8,
           .shape = {scales},
           .bytes = bytes(p.zeros, s.scale_count())});
    }
    packed_[name] = {{"rows", s.rows},
                     {"cols", s.cols},
                     {"bits", s.format.bits},
                     {"group", s.format.group},
                     {"affine", s.format.affine()},
                     {"scale", scale_name(s.format.scale)},
                     {"layout", "panel16"}};
  }
  void add(Tensor tensor) {
    checksums_[tensor.name] = crc32c(tensor.bytes);
    tensors_.push_back(std::move(tensor));
  }

  std::vector<Tensor> tensors_;
  Json packed_ = Json::object(), checksums_ = Json::object();
};

inline Json describe_input(const llama::InputForm& input) {
  if (!input.format) return nullptr;
  return {{"bits", input.format->bits},
          {"group", input.format->group},
          {"token_scales", input.format->token_scales},
          {"clip", input.format->clip}};
}

}  // namespace detail

// Requires a packed model (no simulated inputs). Errors: cannot_write, naming the file.
inline Result<void> save_artefact(const std::filesystem::path& path, const llama::Model& model,
                                  const TokenizerFiles& tokenizer, const Provenance& provenance) {
  detail::ArtefactContents contents;
  Json inputs = Json::array();
  const std::string config = hf_config_text(model.config);
  contents.dense("model.embed_tokens.weight", model.embedding.view);
  for (int layer = 0; layer < model.config.layers; ++layer) {
    const auto& block = model.blocks[static_cast<std::size_t>(layer)];
    for (const auto& [name, linear, input] : llama::named_linears) {
      contents.linear(llama::layer_name(layer, name), block.*linear);
    }
    for (const auto& [name, norm, per_head] : llama::named_norms) {
      contents.vector(llama::layer_name(layer, name) + ".weight", block.norms.*norm);
    }
    Json& entry = inputs.emplace_back();
    for (const auto& [name, input] : detail::named_inputs) {
      BISUP_EXPECTS(!(block.inputs.*input).simulate || !(block.inputs.*input).format ||
                    !model.scheme.quantizes_weights());
      entry[name] = detail::describe_input(block.inputs.*input);
    }
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

  const Json description = {{"schema", artefact_schema},
                            {"writer", "bisup " BISUP_VERSION_STRING},
                            {"scheme", model.scheme.name()},
                            {"recipe", provenance.recipe},
                            {"float_weights", provenance.float_weights},
                            {"details", provenance.details},
                            {"rope_factors", model.config.rope_factors},
                            {"packed", contents.packed_formats()},
                            {"inputs", inputs},
                            {"head_input", detail::describe_input(model.head_input)},
                            {"kv", describe(model.kv)},
                            {"prompt", model.prompt.ids()},
                            {"crc32c", contents.checksums()}};
  return write_safetensors(path, contents.tensors(),
                           {{"bisup", description.dump()}, {"format", "bisup"}});
}

}  // namespace bisup::io
