// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a quantized model loaded? load_artefact maps the file, checks its description against its
// tensors, and points into it; verify_artefact compares the payload with its checksums.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/hf_config_text.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/kv_policy_json.hpp>

namespace bisup::io {

namespace detail {

// Reads one artefact's parts; every member function names the file in its errors.
class ArtefactReader {
 public:
  ArtefactReader(std::shared_ptr<const Safetensors> file, const Json& description)
      : file_(std::move(file)), description_(description) {}

  [[nodiscard]] Error error(Errc code, std::string message) const {
    return {code, std::move(message), file_->path()};
  }

  [[nodiscard]] Result<Tensor> tensor(const std::string& name, ElementType type,
                                      const std::vector<std::int64_t>& shape) const {
    auto found = file_->tensor(name);
    if (!found) return found.error();
    if (found->type != type || found->shape != shape) {
      return error(Errc::wrong_shape, "tensor " + in_quotes(name) + " is " +
                                          bisup::io::name(found->type) + " " +
                                          describe(found->shape) + ", not " +
                                          bisup::io::name(type) + " " + describe(shape));
    }
    if (reinterpret_cast<std::uintptr_t>(found->bytes.data()) % bytes_of(type) != 0) {
      return error(Errc::malformed,
                   "tensor " + in_quotes(name) + " is not aligned to its elements");
    }
    return found;
  }

  [[nodiscard]] std::string text(const std::string& name) const {
    const Tensor* found = file_->find(name);
    if (found == nullptr) return {};
    return {reinterpret_cast<const char*>(found->bytes.data()), found->bytes.size()};
  }

  [[nodiscard]] Result<std::vector<float>> vector(const std::string& name, int size) const {
    const auto found = tensor(name, ElementType::f32, {size});
    if (!found) return found.error();
    const auto* values = reinterpret_cast<const float*>(found->bytes.data());
    return std::vector<float>(values, values + size);
  }

  [[nodiscard]] Result<llama::DenseTensor> dense(const std::string& name, int rows,
                                                 int cols) const {
    const Tensor* any = file_->find(name);
    const auto type = any == nullptr ? std::optional(DType::f32) : dense_type(any->type);
    if (!type) return error(Errc::wrong_shape, "tensor " + in_quotes(name) + " has no float type");
    const auto found = tensor(name, any == nullptr ? ElementType::f32 : any->type, {rows, cols});
    if (!found) return found.error();
    return llama::DenseTensor{{found->bytes.data(), *type, rows, cols}, file_};
  }

  // The stored prompt, or none.
  [[nodiscard]] Result<PromptCache> prompt(const llama::Config& c) const {
    const auto entry = description_.find("prompt");
    if (entry == description_.end()) return PromptCache();
    JsonFields fields(description_, file_->path());
    const std::vector<int> ids = fields.integers("prompt");
    if (fields.error()) return *fields.error();
    if (ids.empty()) return PromptCache();
    for (const int id : ids) {
      if (id < 0 || id >= c.vocab_size)
        return error(Errc::malformed, "has a stored prompt with ids outside the vocabulary");
    }
    const int tokens = static_cast<int>(ids.size()), width = c.kv_heads * c.head_dim;
    const Tensor* first = file_->find(prompt_name(0, "keys"));
    const bool f32 = first != nullptr && first->type == ElementType::f32;
    PromptCache prompt(ids, c.layers, c.kv_heads, c.head_dim, f32 ? DType::f32 : DType::f16);
    for (int layer = 0; layer < c.layers; ++layer) {
      Matrix<float> rows[2];
      for (const int which : {0, 1}) {
        const std::string name = prompt_name(layer, which == 0 ? "keys" : "values");
        if (auto right = tensor(name, f32 ? ElementType::f32 : ElementType::f16, {tokens, width});
            !right) {
          return right.error();
        }
        const auto read = dense(name, tokens, width);
        if (!read) return read.error();
        rows[which] = llama::as_matrix(read->view);
        for (const float x : std::span(rows[which].data(), ids.size() * std::size_t(width))) {
          if (!std::isfinite(x)) return error(Errc::not_finite, "tensor " + in_quotes(name));
        }
      }
      prompt.set(layer, rows[0].ref(), rows[1].ref());
    }
    return prompt;
  }

  [[nodiscard]] Result<llama::AnyLinear> linear(const std::string& name, int rows, int cols,
                                                bool has_bias) const {
    std::vector<float> bias;
    if (has_bias) {
      auto read = vector(name + ".bias", rows);
      if (!read) return read.error();
      bias = std::move(read).value();
    }
    const auto entry = description_["packed"].find(name);
    if (entry == description_["packed"].end()) {
      auto weight = dense(name + ".weight", rows, cols);
      if (!weight) return weight.error();
      return llama::AnyLinear(std::move(weight).value(), std::move(bias));
    }
    auto weight = packed(name, *entry, rows, cols);
    if (!weight) return weight.error();
    return llama::AnyLinear(std::move(weight).value(), std::move(bias));
  }

  [[nodiscard]] Result<llama::InputForm> input(const Json& entry, bool packed_weights) const {
    llama::InputForm form;
    if (entry.is_null()) return form;
    const auto bits = integer(entry, "bits", 2, 8),
               group = integer(entry, "group", 0, longest_group);
    const auto token_scales = entry.find("token_scales"), clip = entry.find("clip");
    if (!bits || !group || *group % 32 != 0 || token_scales == entry.end() ||
        !token_scales->is_boolean() || clip == entry.end() || !clip->is_number() ||
        !(clip->get<float>() > 0 && clip->get<float>() <= 1)) {
      return error(Errc::malformed, "describes an input that cannot be");
    }
    form.format = ActivationFormat{.bits = *bits,
                                   .group = *group,
                                   .token_scales = token_scales->get<bool>(),
                                   .clip = clip->get<float>()};
    form.simulate = !packed_weights;
    return form;
  }

 private:
  [[nodiscard]] static std::optional<int> integer(const Json& entry, const char* key, int low,
                                                  int high) {
    const auto found = entry.is_object() ? entry.find(key) : entry.end();
    if (!entry.is_object() || found == entry.end() || !found->is_number_integer())
      return std::nullopt;
    const auto value = found->get<std::int64_t>();
    if (value < low || value > high) return std::nullopt;
    return static_cast<int>(value);
  }

  [[nodiscard]] Result<AnyPackedTensor> packed(const std::string& name, const Json& entry, int rows,
                                               int cols) const {
    const auto wrong = [&](const std::string& what) {
      return error(Errc::malformed, "describes " + in_quotes(name) + " with " + what);
    };
    constexpr int most = std::numeric_limits<int>::max();
    const auto stored_rows = integer(entry, "rows", 1, most),
               stored_cols = integer(entry, "cols", 1, most);
    if (!stored_rows || !stored_cols) return wrong("no rows or columns");
    if (*stored_rows != rows || *stored_cols != cols) {
      return error(Errc::wrong_shape, in_quotes(name) + " is packed as [" +
                                          std::to_string(*stored_rows) + ", " +
                                          std::to_string(*stored_cols) + "], the model needs [" +
                                          std::to_string(rows) + ", " + std::to_string(cols) + "]");
    }
    const auto bits = integer(entry, "bits", 2, 8),
               group = integer(entry, "group", 0, longest_group);
    if (!bits || *bits == 7) return wrong("impossible bits");
    if (!group || *group % 32 != 0) return wrong("an impossible group");
    if (entry.value("layout", Json()) != "panel16") {
      return error(Errc::unsupported, in_quotes(name) + " has a layout other than panel16");
    }
    const auto affine = entry.find("affine");
    if (affine == entry.end() || !affine->is_boolean()) return wrong("no zero kind");
    Format format{.bits = *bits,
                  .group = *group,
                  .zero = affine->get<bool>() ? Zero::affine : Zero::symmetric};
    bool known = false;
    for (const Scale scale : {Scale::f32, Scale::f16, Scale::bf16}) {
      if (entry.value("scale", Json()) == scale_name(scale)) format.scale = scale, known = true;
    }
    if (!known) return wrong("an unknown type of scale");

    const PackedShape shape{format, rows, cols};
    const auto scale_count = static_cast<std::int64_t>(shape.scale_count());
    const auto codes =
        tensor(name + ".codes", ElementType::u8, {static_cast<std::int64_t>(shape.code_bytes())});
    if (!codes) return codes.error();
    const auto scales = tensor(name + ".scales", scale_element(format.scale), {scale_count});
    if (!scales) return scales.error();
    const std::uint8_t* zeros = nullptr;
    if (format.affine()) {
      const auto found = tensor(name + ".zeros", ElementType::u8, {scale_count});
      if (!found) return found.error();
      zeros = reinterpret_cast<const std::uint8_t*>(found->bytes.data());
    }
    return AnyPackedTensor(PackedPanels(reinterpret_cast<const std::uint8_t*>(codes->bytes.data()),
                                        scales->bytes.data(), zeros, shape),
                           file_);
  }

  std::shared_ptr<const Safetensors> file_;
  const Json& description_;
};

// Rows and columns of the linears in named_linears' order.
[[nodiscard]] inline std::pair<int, int> linear_shape(const llama::Config& c, std::size_t index) {
  const int attention = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const std::pair<int, int> shapes[] = {{attention, c.hidden_size},
                                        {kv, c.hidden_size},
                                        {kv, c.hidden_size},
                                        {c.hidden_size, attention},
                                        {c.intermediate_size, c.hidden_size},
                                        {c.intermediate_size, c.hidden_size},
                                        {c.hidden_size, c.intermediate_size}};
  return shapes[index];
}
[[nodiscard]] inline bool linear_has_bias(const llama::Config& c, std::size_t index) {
  return index < 3 ? c.attention_bias : index == 3 ? c.output_bias : c.mlp_bias;
}

[[nodiscard]] inline Result<llama::BlockWeights<llama::AnyLinear>> read_block(
    const ArtefactReader& reader, const Json& inputs, const llama::Config& c, int layer) {
  llama::BlockWeights<llama::AnyLinear> block;
  for (std::size_t i = 0; i < std::size(llama::named_linears); ++i) {
    const auto& [part, linear, input] = llama::named_linears[i];
    const auto [rows, cols] = linear_shape(c, i);
    auto read = reader.linear(llama::layer_name(layer, part), rows, cols, linear_has_bias(c, i));
    if (!read) return read.error();
    block.*linear = std::move(read).value();
  }
  for (const auto& [part, norm, per_head] : llama::named_norms) {
    if (per_head && !c.qk_norm) continue;
    auto read = reader.vector(llama::layer_name(layer, part) + ".weight",
                              per_head ? c.head_dim : c.hidden_size);
    if (!read) return read.error();
    block.norms.*norm = std::move(read).value();
  }
  for (const auto& [name, form] : named_inputs) {
    if (!inputs.is_object() || !inputs.contains(name))
      return reader.error(Errc::malformed, "lacks the inputs of a layer");
    for (const auto& [part, linear, input] : llama::named_linears) {
      if (input != form) continue;
      auto read = reader.input(inputs[name], (block.*linear).packed() != nullptr);
      if (!read) return read.error();
      const auto& packed = (block.*linear).packed();
      if (packed != nullptr && read->format && read->format->group != packed->format().group) {
        return reader.error(Errc::malformed,
                            "gives an input other groups than the weights that read it");
      }
      block.inputs.*form = *read;
    }
  }
  return block;
}

}  // namespace detail

// Errors: those of Safetensors::open, and missing, malformed, wrong_shape, unknown_version, each
// naming the file. Payload checksums are left to verify_artefact.
[[nodiscard]] inline Result<Artefact> load_artefact(const std::filesystem::path& path) {
  auto opened = Safetensors::open(path);
  if (!opened) return opened.error();
  Artefact artefact;
  artefact.file = std::make_shared<const Safetensors>(std::move(opened).value());
  const auto refuse = [&](Errc code, std::string message) {
    return Error{code, std::move(message), path.string()};
  };

  const auto text = artefact.file->metadata().find("bisup");
  if (text == artefact.file->metadata().end()) {
    return refuse(Errc::missing,
                  "is a safetensors file, but has no \"bisup\" description in its metadata");
  }
  auto description = parse_json(text->second, path.string());
  if (!description) return description.error();
  artefact.description = std::move(description).value();
  const Json& d = artefact.description;
  if (!d.is_object() || !d.contains("schema") || !d["schema"].is_number_integer()) {
    return refuse(Errc::malformed, "has a description without a schema version");
  }
  if (const auto schema = d["schema"].get<std::int64_t>();
      schema < 1 || schema > artefact_schema) {
    return refuse(Errc::unknown_version, "was written with schema " + std::to_string(schema) +
                                             "; this program reads 1 to " +
                                             std::to_string(artefact_schema));
  }
  for (const char* key : {"scheme", "recipe", "float_weights"}) {
    if (!d.contains(key) || !d[key].is_string())
      return refuse(Errc::malformed, "has a description without " + in_quotes(key));
  }
  if (!d.contains("packed") || !d["packed"].is_object() || !d.contains("inputs") ||
      !d["inputs"].is_array() || !d.contains("head_input")) {
    return refuse(Errc::malformed, "has a description without its tensors or inputs");
  }
  const auto scheme = Scheme::parse(d["scheme"].get<std::string>());
  if (!scheme) return refuse(Errc::bad_scheme, scheme.error().message);
  artefact.provenance = {d["recipe"], d["float_weights"], d.value("details", Json::object())};

  const detail::ArtefactReader reader(artefact.file, d);
  const std::string config_text = reader.text("config.json");
  if (config_text.empty()) return refuse(Errc::missing, "has no config.json inside");
  auto config = parse_hf_config(config_text, path.string());
  if (!config) return config.error();
  llama::Model& model = artefact.model;
  model.config = std::move(config).value();
  if (const auto factors = d.find("rope_factors"); factors != d.end()) {
    if (!factors->is_array() || !std::all_of(factors->begin(), factors->end(),
                                             [](const Json& f) { return f.is_number(); })) {
      return refuse(Errc::malformed, "has rope factors that are not numbers");
    }
    model.config.rope_factors = factors->get<std::vector<float>>();
    if (const auto valid = model.config.validate(); !valid)
      return refuse(valid.error().code, valid.error().message);
  }
  model.scheme = *scheme;
  const llama::Config& c = model.config;
  if (d["inputs"].size() != static_cast<std::size_t>(c.layers)) {
    return refuse(Errc::malformed, "describes the inputs of " + std::to_string(d["inputs"].size()) +
                                       " layers; the model has " + std::to_string(c.layers));
  }

  auto embedding = reader.dense("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  if (!embedding) return embedding.error();
  model.embedding = std::move(embedding).value();
  for (int layer = 0; layer < c.layers; ++layer) {
    auto block = detail::read_block(reader, d["inputs"][static_cast<std::size_t>(layer)], c, layer);
    if (!block) return block.error();
    model.blocks.push_back(std::move(block).value());
  }
  auto norm = reader.vector("model.norm.weight", c.hidden_size);
  if (!norm) return norm.error();
  model.final_norm = std::move(norm).value();
  const bool own_head =
      d["packed"].contains("lm_head") || artefact.file->find("lm_head.weight") != nullptr;
  if (own_head) {
    auto head = reader.linear("lm_head", c.vocab_size, c.hidden_size, false);
    if (!head) return head.error();
    model.head = std::move(head).value();
  } else if (c.tied_embeddings) {
    model.head = llama::AnyLinear(model.embedding);
  } else {
    return refuse(Errc::missing, "has no lm_head, and its embeddings are not tied");
  }
  auto head_input = reader.input(d["head_input"], model.head.packed() != nullptr);
  if (!head_input) return head_input.error();
  model.head_input = *head_input;
  model.kv = KvPolicy::of(model.scheme);
  if (const auto kv = d.find("kv"); kv != d.end()) {
    auto policy = read_kv_policy(*kv, path.string());
    if (!policy) return policy.error();
    const CacheShape shape{.layers = c.layers,
                           .kv_heads = c.kv_heads,
                           .head_dim = c.head_dim,
                           .capacity = c.max_positions};
    if (auto can_be = check(shape, *policy); !can_be)
      return refuse(Errc::malformed, can_be.error().message);
    model.kv = std::move(policy).value();
  }
  auto prompt = reader.prompt(c);
  if (!prompt) return prompt.error();
  model.prompt = std::move(prompt).value();
  artefact.tokenizer = {.where = path.string(),
                        .tokenizer_json = reader.text("tokenizer.json"),
                        .gguf_metadata = reader.text("tokenizer.gguf"),
                        .chat_template = reader.text("chat_template.jinja"),
                        .tokenizer_config = reader.text("tokenizer_config.json")};
  return artefact;
}

[[nodiscard]] inline Result<void> verify_artefact(const Artefact& artefact) {
  const auto sums = artefact.description.find("crc32c");
  for (const Tensor& tensor : artefact.file->tensors()) {
    if (sums == artefact.description.end() || !sums->is_object() || !sums->contains(tensor.name)) {
      return Error{Errc::missing, "has no checksum for tensor " + in_quotes(tensor.name),
                   artefact.file->path()};
    }
    const std::uint32_t found = crc32c(tensor.bytes);
    if ((*sums)[tensor.name] != found) {
      return Error{Errc::wrong_checksum,
                   "tensor " + in_quotes(tensor.name) + " does not match its checksum",
                   artefact.file->path()};
    }
  }
  return {};
}

}  // namespace bisup::io
