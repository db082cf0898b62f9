// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a stored prompt outlive its process? As one .safetensors file that names the model it
// belongs to: load_prompt compares that with the model at hand, and every tensor with its checksum,
// before anything is used.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/described_tensors.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup/io/safetensors_writer.hpp>
#include <bisup/io/tensor_describer.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

inline constexpr int prompt_schema = 1;

namespace detail {

// The ends of a tensor: other weights differ there too, and a large model stays on its disk.
[[nodiscard]] inline std::uint32_t ends_of(const void* data, std::size_t bytes,
                                           std::uint32_t before) {
  const auto all = std::span(static_cast<const std::byte*>(data), bytes);
  const std::size_t end = std::min<std::size_t>(bytes, 256);
  return crc32c(all.last(end), crc32c(all.first(end), before));
}

}  // namespace detail

// A number that another model, or the same one quantized otherwise, is most unlikely to have.
[[nodiscard]] inline std::uint32_t fingerprint(const llama::Model& model) {
  const llama::Config& c = model.config;
  const std::string what = c.architecture + ' ' + model.scheme.name() + ' ' +
                           std::to_string(c.layers) + ' ' + std::to_string(c.kv_heads) + ' ' +
                           std::to_string(c.head_dim) + ' ' + std::to_string(c.rope_theta);
  std::uint32_t sum = crc32c(std::as_bytes(std::span(what)));
  sum = detail::ends_of(model.embedding.view.data, model.embedding.view.bytes(), sum);
  for (const auto& block : model.blocks) {
    for (const auto& named : llama::named_linears) {
      const llama::AnyLinear& linear = block.*named.linear;
      if (linear.dense() != nullptr) {
        sum = detail::ends_of(linear.dense()->view.data, linear.dense()->view.bytes(), sum);
      } else {
        const PackedPanels& p = linear.packed()->panels();
        sum = detail::ends_of(p.codes, p.shape.code_bytes(), sum);
      }
    }
    for (const auto& named : llama::named_norms) {
      const auto& norm = block.norms.*named.norm;
      sum = detail::ends_of(norm.data(), norm.size() * sizeof(float), sum);
    }
  }
  return sum;
}

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
