// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a stored prompt outlive its process? As one .safetensors file that names the model it
// belongs to: load_prompt compares that with the model at hand, and every tensor with its checksum,
// before anything is used.

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/described_tensors.hpp>
#include <bisup/io/fingerprint.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup/io/safetensors_writer.hpp>
#include <bisup/io/tensor_describer.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

inline constexpr int prompt_schema = 1;

// Errors: cannot_write.
[[nodiscard]] inline Result<void> save_prompt(const std::filesystem::path& path,
                                              const llama::Model& model,
                                              const PromptCache& prompt) {
  detail::TensorDescriber contents;
  for (int layer = 0; layer < prompt.layers(); ++layer) {
    contents.dense(detail::prompt_name(layer, "keys"), prompt.keys(layer));
    contents.dense(detail::prompt_name(layer, "values"), prompt.values(layer));
  }
  const Json description = {{"schema", prompt_schema},
                            {"scheme", model.scheme.name()},
                            {"fingerprint", fingerprint(model)},
                            {"prompt", prompt.ids()},
                            {"crc32c", contents.checksums()}};
  return write_safetensors(path, contents.tensors(),
                           {{"bisup_prompt", description.dump()}, {"format", "bisup"}});
}

// Errors: those of Safetensors::open; missing and malformed; unknown_version; unsupported for a
// prompt of another model; wrong_checksum, wrong_shape, not_finite: each naming the file.
[[nodiscard]] inline Result<PromptCache> load_prompt(const std::filesystem::path& path,
                                                     const llama::Model& model) {
  auto opened = Safetensors::open(path);
  if (!opened) return opened.error();
  const auto file = std::make_shared<const Safetensors>(std::move(opened).value());
  const auto refuse = [&](Errc code, std::string message) {
    return Error{code, std::move(message), path.string()};
  };
  const auto text = file->metadata().find("bisup_prompt");
  if (text == file->metadata().end())
    return refuse(Errc::missing, "is a safetensors file, but holds no stored prompt");
  const auto parsed = parse_json(text->second, path.string());
  if (!parsed) return parsed.error();
  const Json& d = *parsed;
  if (!d.is_object()) return refuse(Errc::malformed, "has a description that is no object");
  if (d.value("schema", Json()) != prompt_schema)
    return refuse(Errc::unknown_version, "is no prompt file of schema 1");
  if (d.value("scheme", Json()) != model.scheme.name()) {
    return refuse(Errc::unsupported,
                  "holds a prompt for another scheme than " + model.scheme.name());
  }
  if (d.value("fingerprint", Json()) != fingerprint(model))
    return refuse(Errc::unsupported, "holds a prompt of another model");
  const auto sums = d.find("crc32c");
  for (const Tensor& tensor : file->tensors()) {
    if (sums == d.end() || !sums->is_object() ||
        sums->value(tensor.name, Json()) != crc32c(tensor.bytes)) {
      return refuse(Errc::wrong_checksum,
                    "tensor " + in_quotes(tensor.name) + " does not match its checksum");
    }
  }
  auto prompt = detail::DescribedTensors(file, d).prompt(model.config);
  if (prompt && prompt->empty()) return refuse(Errc::missing, "holds a prompt of no tokens");
  return prompt;
}

}  // namespace bisup::io
