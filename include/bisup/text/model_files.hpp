// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a loaded model come to speak? Its TokenizerFiles, whatever they came from, become a
// Tokenizer and a ChatTemplate.

#include <span>
#include <string>

#include <bisup/core/result.hpp>
#include <bisup/io/gguf.hpp>
#include <bisup/io/tokenizer_files.hpp>
#include <bisup/text/chat_template.hpp>
#include <bisup/text/tokenizer.hpp>
#include <bisup/text/tokenizer_gguf.hpp>
#include <bisup/text/tokenizer_json.hpp>

namespace bisup::text {

// Errc::missing if the model has no tokenizer.
[[nodiscard]] inline Result<Tokenizer> load_tokenizer(const io::TokenizerFiles& files) {
  if (!files.tokenizer_json.empty()) {
    return Tokenizer::from_json_text(files.tokenizer_json, files.where);
  }
  if (files.gguf_metadata.empty()) return Error{Errc::missing, "has no tokenizer", files.where};
  const auto bytes = std::as_bytes(std::span(files.gguf_metadata));
  const auto gguf = io::Gguf::parse(bytes, nullptr, files.where);
  if (!gguf) return gguf.error();
  return Tokenizer::from_gguf(gguf.value());  // copies all it needs
}

// The model's own template; Errc::missing if it has none.
[[nodiscard]] inline Result<ChatTemplate> load_chat_template(const io::TokenizerFiles& files) {
  if (!files.chat_template.empty()) {
    return ChatTemplate::recognize(files.chat_template, files.where);
  }
  if (files.tokenizer_config.empty()) {
    return Error{Errc::missing, "has no chat template", files.where};
  }
  const auto found = chat_template_of_config(files.tokenizer_config, files.where);
  if (!found) return found.error();
  return ChatTemplate::recognize(found.value(), files.where);
}

}  // namespace bisup::text
