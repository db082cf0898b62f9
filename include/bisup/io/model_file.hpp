// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a program open whatever the user calls MODEL? open_model tells a Hugging Face folder, a
// GGUF and an artefact apart and gives the model with the files its tokenizer is made from;
// open_tokenizer_files gives those alone.

#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/io/artefact_reader.hpp>
#include <bisup/io/checkpoint.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/tokenizer_files.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

struct ModelFile {
  llama::Model model;
  TokenizerFiles tokenizer = {};
  std::string kind = {};          // "artefact", "gguf" or "safetensors"
  std::string weights_note = {};  // what "float" means for its weights: "Q4_1, Q8_0 dequantized"
};

namespace detail {

// A tokenizer's file beside the model, or nothing if there is none. It can be long: merges are
// text.
[[nodiscard]] inline Result<std::string> read_if_present(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::string();
  return read_text_file(path, 256 << 20);
}

[[nodiscard]] inline Result<TokenizerFiles> tokenizer_files_beside(
    const std::filesystem::path& folder) {
  TokenizerFiles files{.where = (folder / "tokenizer.json").string()};
  struct Part {
    const char* name;
    std::string TokenizerFiles::*text;
  };
  for (const auto& [name, text] : {Part{"tokenizer.json", &TokenizerFiles::tokenizer_json},
                                   Part{"tokenizer_config.json", &TokenizerFiles::tokenizer_config},
                                   Part{"chat_template.jinja", &TokenizerFiles::chat_template}}) {
    auto read = read_if_present(folder / name);
    if (!read) return read.error();
    files.*text = std::move(read).value();
  }
  return files;
}

[[nodiscard]] inline TokenizerFiles tokenizer_files_inside(const Gguf& file) {
  TokenizerFiles files{.where = file.path()};
  if (file.find("tokenizer.ggml.tokens") == nullptr) return files;
  files.gguf_metadata = gguf_with_metadata(file, "tokenizer.");
  if (const auto text = file.string("tokenizer.chat_template"))
    files.chat_template = std::string(*text);
  return files;
}

// The types of the linears' weights, "F32" or "Q4_1, Q8_0 dequantized".
[[nodiscard]] inline std::string weights_note(const Checkpoint& source) {
  std::set<std::string> types;
  for (int layer = 0; layer < source.config().layers; ++layer) {
    for (const auto& named : llama::named_linears) {
      types.insert(source.stored_type(llama::layer_name(layer, named.name) + ".weight"));
    }
  }
  std::string note;
  bool blocks = false;
  for (const auto& type : types) {
    if (!note.empty()) note += ", ";
    note += type;
    blocks = blocks || (type != "F32" && type != "F16" && type != "BF16");
  }
  if (blocks) note += " dequantized";
  return note;
}

// By what is inside, whatever the file's name: people rename files, and -o may name any.
[[nodiscard]] inline bool is_artefact(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  return file && file->metadata().contains("bisup");
}

}  // namespace detail

// A float model whose tensors are still in its files, to be read one by one.
struct ModelSource {
  Checkpoint checkpoint;
  TokenizerFiles tokenizer = {};
  std::string weights_note = {};
  [[nodiscard]] std::string kind() const {
    return checkpoint.gguf() != nullptr ? "gguf" : "safetensors";
  }
};

// Errors: those of Checkpoint::open; unsupported for an artefact, which is quantized already.
[[nodiscard]] inline Result<ModelSource> open_source(const std::filesystem::path& path) {
  if (detail::is_artefact(path)) {
    return Error{Errc::unsupported, "is quantized already; begin with the float model",
                 path.string()};
  }
  auto checkpoint = Checkpoint::open(path);
  if (!checkpoint) return checkpoint.error();
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  auto tokenizer = checkpoint->gguf() != nullptr
                       ? Result<TokenizerFiles>(detail::tokenizer_files_inside(*checkpoint->gguf()))
                       : detail::tokenizer_files_beside(folder ? path : path.parent_path());
  if (!tokenizer) return tokenizer.error();
  std::string note = detail::weights_note(*checkpoint);
  return ModelSource{std::move(checkpoint).value(), std::move(tokenizer).value(), std::move(note)};
}

// Errors: those of open_source and load_artefact.
[[nodiscard]] inline Result<ModelFile> open_model(const std::filesystem::path& path) {
  if (detail::is_artefact(path)) {
    auto artefact = load_artefact(path);
    if (!artefact) return artefact.error();
    return ModelFile{std::move(artefact->model), std::move(artefact->tokenizer), "artefact",
                     artefact->provenance.float_weights};
  }
  auto source = open_source(path);
  if (!source) return source.error();
  auto model = llama::read_model(source->checkpoint);
  if (!model) return model.error();
  return ModelFile{std::move(model).value(), std::move(source->tokenizer), source->kind(),
                   std::move(source->weights_note)};
}

// Only what a tokenizer is made from: a folder needs no weights, and a GGUF's stay where they are.
[[nodiscard]] inline Result<TokenizerFiles> open_tokenizer_files(
    const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return detail::tokenizer_files_beside(path);
  if (path.extension() == ".gguf" && !detail::is_artefact(path)) {
    const auto file = Gguf::open(path);
    if (!file) return file.error();
    return detail::tokenizer_files_inside(*file);
  }
  auto file = open_model(path);
  if (!file) return file.error();
  return std::move(file->tokenizer);
}

}  // namespace bisup::io
