// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do a reference's hidden states outlive the comparison that needed them? As one file, every
// tensor under a checksum, that names the model, its cache and its prompt: with another reference
// it is refused. It may hold windows of several texts.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/version.hpp>
#include <bisup/evaluate/reference_states.hpp>
#include <bisup/io/checked_tensors.hpp>
#include <bisup/io/fingerprint.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/kv_policy_json.hpp>
#include <bisup/io/tensor.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

namespace detail {

// All that a hidden state depends on beside the tokens.
[[nodiscard]] inline Json describe_reference(const llama::Model& reference,
                                             const KvPolicy& policy) {
  std::uint32_t prompt = 0;
  const auto add = [&](const DenseView& view) {
    prompt = crc32c({static_cast<const std::byte*>(view.data), view.bytes()}, prompt);
  };
  for (int layer = 0; layer < reference.prompt.layers(); ++layer)
    add(reference.prompt.keys(layer)), add(reference.prompt.values(layer));
  return {{"version", BISUP_VERSION_STRING},
          {"fingerprint", fingerprint(reference)},
          {"kv", io::describe(policy)},
          {"prompt", reference.prompt.ids()},
          {"prompt_crc32c", prompt}};
}

}  // namespace detail

// Errors: cannot_write.
[[nodiscard]] inline Result<void> save_reference_states(const std::filesystem::path& path,
                                                        const ReferenceStates& known,
                                                        const llama::Model& reference,
                                                        const KvPolicy& policy) {
  std::vector<Tensor> tensors;
  for (const auto& read : known) {
    const std::string number = std::to_string(tensors.size() / 2);
    const auto tokens = static_cast<std::int64_t>(read.ids.size());
    tensors.push_back({.name = "ids." + number,
                       .type = ElementType::i32,
                       .shape = {tokens},
                       .bytes = std::as_bytes(std::span(read.ids))});
    const std::size_t count = read.ids.size() * static_cast<std::size_t>(read.states.cols());
    tensors.push_back({.name = "states." + number,
                       .type = ElementType::f32,
                       .shape = {tokens, read.states.cols()},
                       .bytes = std::as_bytes(std::span(read.states.data(), count))});
  }
  return write_checked(path, tensors,
                       {{"reference", detail::describe_reference(reference, policy)},
                        {"reads", static_cast<int>(known.size())}});
}

// Errors: those of open_checked; missing for a file of another kind; unsupported for one of another
// reference; wrong_shape. Each names the file.
[[nodiscard]] inline Result<ReferenceStates> load_reference_states(
    const std::filesystem::path& path, const llama::Model& reference, const KvPolicy& policy) {
  auto opened = open_checked(path);
  if (!opened) return opened.error();
  const Json& d = opened->description;
  if (!d.contains("reference") || !d.contains("reads") || !d["reads"].is_number_unsigned())
    return Error{Errc::missing, "holds no states of a reference", path.string()};
  if (d["reference"] != detail::describe_reference(reference, policy)) {
    return Error{Errc::unsupported,
                 "holds the states of another reference, cache, prompt or version", path.string()};
  }
  ReferenceStates known;
  const auto reads = d["reads"].get<std::uint64_t>();
  for (std::uint64_t i = 0; i < reads; ++i) {
    const auto ids = opened->file->tensor("ids." + std::to_string(i)),
               states = opened->file->tensor("states." + std::to_string(i));
    if (!ids) return ids.error();
    if (!states) return states.error();
    const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(ids->bytes.size() / 4),
                                             reference.config.hidden_size};
    if (ids->type != ElementType::i32 || states->type != ElementType::f32 ||
        states->shape != shape) {
      return Error{Errc::wrong_shape, "tensor " + in_quotes(states->name) + " is no states of it",
                   path.string()};
    }
    std::vector<int> tokens(ids->bytes.size() / 4);
    std::ranges::copy(ids->bytes, std::as_writable_bytes(std::span(tokens)).begin());
    Matrix<float> rows(static_cast<int>(shape[0]), reference.config.hidden_size);
    std::ranges::copy(
        states->bytes,
        std::as_writable_bytes(std::span(rows.data(), states->bytes.size() / 4)).begin());
    known.add(tokens, std::move(rows));
  }
  return known;
}

}  // namespace bisup::io
