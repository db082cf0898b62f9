// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Is a file of our own still what was written? Every tensor is under a checksum in the description,
// and in a CheckedTensors file the description is under one as well.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup/io/safetensors_writer.hpp>
#include <bisup/io/tensor.hpp>

namespace bisup::io {

// `sums`: the CRC-32C of each tensor by name; it names all tensors and no others. Errors: missing,
// wrong_checksum.
[[nodiscard]] inline Result<void> verify_checksums(const Safetensors& file, const Json& sums) {
  for (const Tensor& tensor : file.tensors()) {
    if (!sums.is_object() || !sums.contains(tensor.name)) {
      return Error{Errc::missing, "has no checksum for tensor " + in_quotes(tensor.name),
                   file.path()};
    }
    const std::uint32_t found = crc32c(tensor.bytes);
    if (sums[tensor.name] != found) {
      return Error{Errc::wrong_checksum,
                   "tensor " + in_quotes(tensor.name) + " does not match its checksum",
                   file.path()};
    }
  }
  for (const auto& entry : sums.items()) {
    if (auto found = file.tensor(entry.key()); !found) return found.error();
  }
  return {};
}

struct CheckedTensors {
  std::shared_ptr<const Safetensors> file;
  Json description;
};

// The description gets the tensors' checksums, "crc32c", from here.
[[nodiscard]] inline Result<void> write_checked(const std::filesystem::path& path,
                                                std::span<const Tensor> tensors, Json description) {
  Json sums = Json::object();
  for (const Tensor& tensor : tensors) sums[tensor.name] = crc32c(tensor.bytes);
  description["crc32c"] = std::move(sums);
  const std::string text = description.dump();
  return write_safetensors(
      path, tensors,
      {{"bisup_part", text}, {"crc32c", std::to_string(crc32c(std::as_bytes(std::span(text))))}});
}

// Reads all of the file. Errors: those of Safetensors::open, missing, wrong_checksum.
[[nodiscard]] inline Result<CheckedTensors> open_checked(const std::filesystem::path& path) {
  auto opened = Safetensors::open(path);
  if (!opened) return opened.error();
  CheckedTensors result{std::make_shared<const Safetensors>(std::move(opened).value()), {}};
  const auto& metadata = result.file->metadata();
  const auto text = metadata.find("bisup_part"), sum = metadata.find("crc32c");
  if (text == metadata.end() || sum == metadata.end()) {
    return Error{Errc::missing, "has no description under a checksum", path.string()};
  }
  if (sum->second != std::to_string(crc32c(std::as_bytes(std::span(text->second))))) {
    return Error{Errc::wrong_checksum, "the description does not match its checksum",
                 path.string()};
  }
  auto description = parse_json(text->second, path.string(), "the description");
  if (!description) return description.error();
  result.description = std::move(description).value();
  const auto sums = result.description.find("crc32c");
  if (sums == result.description.end())
    return Error{Errc::missing, "has no checksums of its tensors", path.string()};
  if (auto whole = verify_checksums(*result.file, *sums); !whole) return whole.error();
  return result;
}

}  // namespace bisup::io
