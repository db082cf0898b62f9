// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does text/ need of a model's files? Their bytes, whatever they came from: a Hugging Face
// folder, a GGUF, or an artefact that carries them inside.

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include <bisup/io/gguf.hpp>

namespace bisup::io {

// Exactly one of tokenizer_json and gguf_metadata is there, or neither if the model has no
// tokenizer.
struct TokenizerFiles {
  std::string where = {};  // for errors
  std::string tokenizer_json = {};
  std::string gguf_metadata = {};     // a GGUF without tensors: what begins with "tokenizer."
  std::string chat_template = {};     // Jinja source, or empty
  std::string tokenizer_config = {};  // tokenizer_config.json, or empty

  friend bool operator==(const TokenizerFiles&, const TokenizerFiles&) = default;
};

// A GGUF of version 3 with no tensors and only the metadata whose keys begin with `prefix`.
[[nodiscard]] inline std::string gguf_with_metadata(const Gguf& source, std::string_view prefix) {
  std::string out = "GGUF";
  const auto put = [&out](auto value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.append(bytes, sizeof value);
  };
  std::uint64_t count = 0;
  for (const auto& [key, value] : source.metadata()) count += key.starts_with(prefix) ? 1 : 0;
  put(std::uint32_t{3}), put(std::uint64_t{0}), put(count);
  for (const auto& [key, value] : source.metadata()) {
    if (!key.starts_with(prefix)) continue;
    put(static_cast<std::uint64_t>(key.size())), out.append(key);
    if (value.is_array()) put(static_cast<std::uint32_t>(GgufType::array));
    put(static_cast<std::uint32_t>(value.type()));
    if (value.is_array()) put(static_cast<std::uint64_t>(value.size()));
    out.append(reinterpret_cast<const char*>(value.bytes().data()), value.bytes().size());
  }
  return out;
}

}  // namespace bisup::io
