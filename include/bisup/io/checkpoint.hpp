// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a float model on disk become tensors? Checkpoint opens a Hugging Face folder, one
// .safetensors file beside its config.json, or a .gguf, and hands out tensors by Hugging Face's
// names, mapped where the file holds them as we need them and dequantized on request where it does
// not.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/core/checksum.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/gguf.hpp>
#include <bisup/io/gguf_blocks.hpp>
#include <bisup/io/gguf_config.hpp>
#include <bisup/io/gguf_names.hpp>
#include <bisup/io/hf_config.hpp>
#include <bisup/io/safetensors_folder.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/llama/tensor_names.hpp>

namespace bisup::io {

class Checkpoint {
 public:
  // Opens the model and checks that it has all tensors of its config, in their shapes, and no
  // others.
  [[nodiscard]] static Result<Checkpoint> open(const std::filesystem::path& path);

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] const llama::Config& config() const noexcept { return config_; }
  // The file itself if it is a GGUF: its tokenizer is in there. Null otherwise.
  [[nodiscard]] const Gguf* gguf() const noexcept { return std::get_if<Gguf>(&tensors_); }

  // In either of its two names a tied embedding is there.
  [[nodiscard]] bool has(std::string_view name) const { return find(resolved(name)).has_value(); }
  [[nodiscard]] Result<llama::DenseTensor> tensor(std::string_view name) const;

  // What the file stores a tensor as, for tables: "F32", "Q4_1"; empty if it is not there.
  [[nodiscard]] std::string stored_type(std::string_view name) const {
    const auto found = find(resolved(name));
    return found ? found->type : std::string();
  }
  // CRC-32C of all tensors as they are stored, names included: whether two files hold one model.
  // Reads every byte.
  [[nodiscard]] std::uint32_t checksum() const;

 private:
  // A tensor in either kind of file.
  struct Stored {
    std::string file;
    std::string_view name;
    std::vector<std::int64_t> shape;
    std::string type;
    bool readable;
  };

  [[nodiscard]] std::optional<Stored> find(std::string_view name) const;
  [[nodiscard]] std::string_view resolved(std::string_view name) const;
  [[nodiscard]] Result<void> check() const;
  [[nodiscard]] Result<void> check_unexpected(const std::vector<llama::NamedShape>& expected) const;
  [[nodiscard]] llama::DenseTensor mapped(const SafetensorsSet& set, const Tensor& tensor,
                                          std::size_t file, int rows, int cols) const;
  [[nodiscard]] llama::DenseTensor dequantized(const GgufTensor& tensor,
                                               std::string_view name) const;

  std::string path_;
  llama::Config config_;
  std::variant<SafetensorsSet, Gguf> tensors_;
};

namespace detail {

inline constexpr std::string_view embedding_name = "model.embed_tokens.weight";
inline constexpr std::string_view head_name = "lm_head.weight";

// Rows and columns; a vector is one row. Nothing beyond matrices occurs in these models.
[[nodiscard]] inline std::optional<std::pair<int, int>> matrix_shape(
    const std::vector<std::int64_t>& shape) {
  constexpr auto most = std::numeric_limits<int>::max();
  if (shape.empty() || shape.size() > 2) return std::nullopt;
  const std::int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.back();
  if (rows > most || cols > most) return std::nullopt;
  return std::pair(static_cast<int>(rows), static_cast<int>(cols));
}

[[nodiscard]] inline std::string describe(const llama::NamedShape& expected) {
  const std::int64_t shape[] = {expected.rows, expected.cols};
  return io::describe(std::span(shape).subspan(expected.vector ? 1 : 0));
}

// Tables that older conversions stored and every program computes.
[[nodiscard]] inline bool is_harmless(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight";
}

}  // namespace detail

inline Result<Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  Checkpoint model;
  model.path_ = path.string();
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  if (!folder && path.extension() == ".gguf") {
    auto file = Gguf::open(path);
    if (!file) return file.error();
    auto config = read_gguf_config(*file);
    if (!config) return config.error();
    model.config_ = std::move(config).value();
    model.tensors_ = std::move(file).value();
  } else {
    if (!folder && path.extension() != ".safetensors" && std::filesystem::exists(path, ignored)) {
      return Error{Errc::unsupported, "is neither a folder nor a .safetensors or .gguf file",
                   path.string()};
    }
    auto set = folder ? SafetensorsSet::open_folder(path) : SafetensorsSet::open_file(path);
    if (!set) return set.error();
    auto config = read_hf_config((folder ? path : path.parent_path()) / "config.json");
    if (!config) return config.error();
    model.config_ = std::move(config).value();
    model.tensors_ = std::move(set).value();
  }
  if (auto checked = model.check(); !checked) return checked.error();
  return model;
}

inline std::optional<Checkpoint::Stored> Checkpoint::find(std::string_view name) const {
  if (const auto* set = std::get_if<SafetensorsSet>(&tensors_)) {
    const auto* place = set->find(name);
    if (place == nullptr) return std::nullopt;
    const Tensor& tensor = place->tensor;
    return Stored{set->files()[place->file].path(), tensor.name, tensor.shape,
                  io::name(tensor.type), dense_type(tensor.type).has_value()};
  }
  const Gguf& file = std::get<Gguf>(tensors_);
  const std::string there = gguf_name(name);
  const GgufTensor* tensor = there.empty() ? nullptr : file.find_tensor(there);
  if (tensor == nullptr) return std::nullopt;
  return Stored{file.path(), tensor->name, tensor->shape, tensor->type.name,
                is_readable(tensor->type)};
}

// A tied model stores its embedding once, under either name.
inline std::string_view Checkpoint::resolved(std::string_view name) const {
  if (!config_.tied_embeddings) return name;
  if (name != detail::embedding_name && name != detail::head_name) return name;
  return find(detail::embedding_name) ? detail::embedding_name : detail::head_name;
}

inline Result<void> Checkpoint::check() const {
  const auto expected = llama::tensor_names(config_);
  for (const llama::NamedShape& wanted : expected) {
    const auto stored = find(resolved(wanted.name));
    if (!stored) return Error{Errc::missing, "has no tensor " + in_quotes(wanted.name), path_};
    const auto shape = detail::matrix_shape(stored->shape);
    if (shape != std::pair(wanted.rows, wanted.cols) ||
        (stored->shape.size() == 1) != wanted.vector) {
      return Error{Errc::wrong_shape,
                   "tensor " + in_quotes(stored->name) + " has the shape " +
                       describe(stored->shape) + " where the config implies " +
                       detail::describe(wanted),
                   stored->file};
    }
    if (!stored->readable) {
      return Error{Errc::unsupported,
                   "tensor " + in_quotes(stored->name) + " is of type " + stored->type +
                       ", which is not read",
                   stored->file};
    }
  }
  return check_unexpected(expected);
}

// A tensor that nothing reads is a part of the model that would be left out: codes of another
// quantizer, a bias, an expert.
inline Result<void> Checkpoint::check_unexpected(
    const std::vector<llama::NamedShape>& expected) const {
  std::vector<std::string> known;
  const bool is_gguf = gguf() != nullptr;
  for (const llama::NamedShape& wanted : expected) {
    known.push_back(is_gguf ? gguf_name(wanted.name) : wanted.name);
  }
  if (config_.tied_embeddings && !is_gguf) known.emplace_back(detail::head_name);
  std::sort(known.begin(), known.end());
  const auto unexpected = [&](std::string_view name) {
    return !detail::is_harmless(name) && !std::binary_search(known.begin(), known.end(), name);
  };
  const auto error = [](std::string_view name, const std::string& file) {
    return Error{Errc::unsupported,
                 "has the tensor " + in_quotes(name) + ", which no model of this config has", file};
  };
  if (const Gguf* file = gguf()) {
    for (const auto& [name, ignored] : file->tensors()) {
      if (unexpected(name)) return error(name, file->path());
    }
    return {};
  }
  const auto& set = std::get<SafetensorsSet>(tensors_);
  for (const auto& [name, place] : set.tensors()) {
    if (unexpected(name)) return error(name, set.files()[place.file].path());
  }
  return {};
}

inline Result<llama::DenseTensor> Checkpoint::tensor(std::string_view name) const {
  const std::string_view stored = resolved(name);
  const auto found = find(stored);
  if (!found) return Error{Errc::missing, "has no tensor " + in_quotes(name), path_};
  const auto shape = detail::matrix_shape(found->shape);
  if (!shape || !found->readable) {
    return Error{Errc::unsupported, "tensor " + in_quotes(name) + " is not a matrix of floats",
                 found->file};
  }
  if (const Gguf* file = gguf()) return dequantized(*file->find_tensor(gguf_name(stored)), stored);
  const auto& set = std::get<SafetensorsSet>(tensors_);
  const auto& place = *set.find(stored);
  return mapped(set, place.tensor, place.file, shape->first, shape->second);
}

inline std::uint32_t Checkpoint::checksum() const {
  std::uint32_t sum = 0;
  const auto add = [&sum](std::string_view name, std::span<const std::byte> bytes) {
    sum = crc32c(bytes, crc32c(std::as_bytes(std::span(name.data(), name.size())), sum));
  };
  if (const Gguf* file = gguf()) {
    for (const auto& [name, tensor] : file->tensors()) add(name, tensor.bytes);
    return sum;
  }
  for (const auto& [name, place] : std::get<SafetensorsSet>(tensors_).tensors())
    add(name, place.tensor.bytes);
  return sum;
}

inline llama::DenseTensor Checkpoint::mapped(const SafetensorsSet& set, const Tensor& tensor,
                                             std::size_t file, int rows, int cols) const {
  const DType type = dense_type(tensor.type).value();
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.bytes.data());
  if (address % static_cast<std::uintptr_t>(bytes_of(type)) == 0) {
    return {{tensor.bytes.data(), type, rows, cols}, set.files()[file].file()};
  }
  // The format promises no alignment, and a float must not be read at an odd address.
  const auto copy = std::make_shared<AlignedBuffer<std::byte>>(tensor.bytes.size());
  if (!tensor.bytes.empty()) std::memcpy(copy->data(), tensor.bytes.data(), tensor.bytes.size());
  return {{copy->data(), type, rows, cols}, copy};
}

inline llama::DenseTensor Checkpoint::dequantized(const GgufTensor& tensor,
                                                  std::string_view name) const {
  const int rows = static_cast<int>(tensor.rows()), cols = static_cast<int>(tensor.cols());
  const bool interleaved = config_.architecture == "llama" && is_interleaved(name);
  if (interleaved && tensor.shape.size() == 1) {  // a bias: its elements are the rows
    Matrix<float> stored(1, cols), values(1, cols);
    dequantize(tensor.type, tensor.bytes, stored.row(0));
    for (int i = 0; i < cols; ++i) values(0, i) = stored(0, interleaved_row(i, config_.head_dim));
    return llama::dense_tensor(std::move(values));
  }
  Matrix<float> values(rows, cols);
  for (int r = 0; r < rows; ++r) {
    const int from = interleaved ? interleaved_row(r, config_.head_dim) : r;
    dequantize(tensor.type,
               tensor.bytes.subspan(static_cast<std::size_t>(from) * tensor.row_bytes(),
                                    tensor.row_bytes()),
               values.row(r));
  }
  return llama::dense_tensor(std::move(values));
}

}  // namespace bisup::io
