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

#include <bisup/core/result.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/checked_tensors.hpp>
#include <bisup/io/described_tensors.hpp>
#include <bisup/io/hf_config_text.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/kv_policy_json.hpp>

namespace bisup::io {

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
  if (const auto schema = d["schema"].get<std::int64_t>(); schema < 1 || schema > artefact_schema) {
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

  const detail::DescribedTensors reader(artefact.file, d);
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
  auto head_input =
      reader.input("lm_head", d["head_input"], c.hidden_size, model.head.packed() != nullptr);
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
  return verify_checksums(*artefact.file, artefact.description.value("crc32c", Json()));
}

}  // namespace bisup::io
