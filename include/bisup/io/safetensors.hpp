// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is in a .safetensors file? Its tensors as views into the mapped file, and its metadata, once
// the header has been proved to describe exactly the bytes that follow it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/tensor.hpp>

namespace bisup::io {

class Safetensors {
 public:
  // What the format's definition allows, so that a reader need not believe an absurd header.
  static constexpr std::uint64_t header_limit = 100'000'000;

  // Maps the file and checks its header completely; the tensors' values are not looked at.
  [[nodiscard]] static Result<Safetensors> open(const std::filesystem::path& path);

  [[nodiscard]] const std::string& path() const noexcept { return file_->path(); }
  // Holds the bytes that the tensors look at.
  [[nodiscard]] const std::shared_ptr<const MappedFile>& file() const noexcept { return file_; }

  // In the order of their names.
  [[nodiscard]] const std::vector<Tensor>& tensors() const noexcept { return tensors_; }
  [[nodiscard]] const Tensor* find(std::string_view name) const {
    const auto at = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const Tensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }
  [[nodiscard]] Result<Tensor> tensor(std::string_view name) const {
    if (const Tensor* found = find(name)) return *found;
    return Error{Errc::missing, "has no tensor " + in_quotes(name), path()};
  }

  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }

 private:
  [[nodiscard]] Error malformed(std::string message) const {
    return {Errc::malformed, std::move(message), path()};
  }
  [[nodiscard]] Result<void> read_header(std::string_view header,
                                         std::span<const std::byte> payload);
  [[nodiscard]] Result<void> read_metadata(const Json& entries);
  [[nodiscard]] Result<Tensor> read_entry(const std::string& name, const Json& entry,
                                          std::span<const std::byte> payload) const;
  [[nodiscard]] Result<void> check_cover(std::span<const std::byte> payload) const;

  std::shared_ptr<const MappedFile> file_;
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

namespace detail {

[[nodiscard]] inline std::optional<ElementType> element_type_named(std::string_view text) {
  for (int i = 0; i <= static_cast<int>(ElementType::boolean); ++i) {
    const auto type = static_cast<ElementType>(i);
    if (text == name(type)) return type;
  }
  return std::nullopt;
}

// A count as JSON may hold one: not negative, not a fraction, inside 63 bits.
[[nodiscard]] inline std::optional<std::int64_t> count_in(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto count = value.get<std::uint64_t>();
  if (count > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(count);
}

}  // namespace detail

inline Result<Safetensors> Safetensors::open(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return file.error();
  Safetensors result;
  result.file_ = std::move(file).value();
  const auto bytes = result.file_->bytes();
  std::uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) {
    return Error{Errc::truncated, "has no room for a header", result.path()};
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > header_limit) {
    return result.malformed("announces a header of " + std::to_string(header_bytes) +
                            " bytes: not a safetensors file, or a damaged one");
  }
  const auto rest = bytes.subspan(sizeof header_bytes);
  if (header_bytes > rest.size()) {
    return Error{Errc::truncated, "ends inside its header", result.path()};
  }
  const auto* text = reinterpret_cast<const char*>(rest.data());
  const std::string_view header(text, static_cast<std::size_t>(header_bytes));
  const auto payload = rest.subspan(header.size());
  if (auto read = result.read_header(header, payload); !read) return read.error();
  return result;
}

inline Result<void> Safetensors::read_header(std::string_view header,
                                             std::span<const std::byte> payload) {
  auto parsed = parse_json(header, path(), "the header");
  if (!parsed) return parsed.error();
  if (!parsed->is_object()) return malformed("the header is not a JSON object");
  for (const auto& [name, entry] : parsed->get_ref<const Json::object_t&>()) {
    if (name == "__metadata__") {
      if (auto read = read_metadata(entry); !read) return read.error();
      continue;
    }
    auto tensor = read_entry(name, entry, payload);
    if (!tensor) return tensor.error();
    tensors_.push_back(std::move(tensor).value());
  }
  return check_cover(payload);
}

inline Result<void> Safetensors::read_metadata(const Json& entries) {
  if (!entries.is_object()) return malformed("'__metadata__' is not a JSON object");
  for (const auto& [key, value] : entries.get_ref<const Json::object_t&>()) {
    if (!value.is_string()) {
      return malformed("the metadata entry " + in_quotes(key) + " is not a string");
    }
    metadata_.emplace(key, value.get_ref<const std::string&>());
  }
  return {};
}

inline Result<Tensor> Safetensors::read_entry(const std::string& name, const Json& entry,
                                              std::span<const std::byte> payload) const {
  const auto wrong = [&](const std::string& what) {
    return malformed("tensor " + in_quotes(name) + " " + what);
  };
  if (!entry.is_object()) return wrong("is not described by a JSON object");
  for (const auto& [key, ignored] : entry.get_ref<const Json::object_t&>()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return wrong("has the unknown property " + in_quotes(key));
    }
  }
  const auto dtype = entry.find("dtype"), shape = entry.find("shape"),
             offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return wrong("has no dtype");
  if (shape == entry.end() || !shape->is_array()) return wrong("has no shape");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return wrong("has no pair of data_offsets");
  }

  Tensor tensor{.name = name};
  const auto& spelled = dtype->get_ref<const std::string&>();
  const auto known = detail::element_type_named(spelled);
  if (!known) {
    return Error{Errc::unsupported,
                 "tensor " + in_quotes(name) + " has the dtype " + in_quotes(spelled), path()};
  }
  tensor.type = *known;
  for (const Json& extent : *shape) {
    const auto count = detail::count_in(extent);
    if (!count) return wrong("has a shape that is not made of counts");
    tensor.shape.push_back(*count);
  }
  const auto begin = detail::count_in((*offsets)[0]), end = detail::count_in((*offsets)[1]);
  if (!begin || !end || *begin > *end) return wrong("has data_offsets that are not a range");
  const auto first = static_cast<std::uint64_t>(*begin), last = static_cast<std::uint64_t>(*end);
  if (last > payload.size()) {
    return Error{Errc::truncated,
                 "tensor " + in_quotes(name) + " ends at byte " + std::to_string(last) + " of " +
                     std::to_string(payload.size()),
                 path()};
  }
  const auto needed = byte_count(tensor.shape, bytes_of(tensor.type));
  if (!needed || *needed != last - first) {
    return wrong("of shape " + describe(tensor.shape) + " and dtype " + spelled + " has " +
                 std::to_string(last - first) + " bytes");
  }
  tensor.bytes =
      payload.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
  return tensor;
}

// The tensors must tile the payload: what two of them share or none of them covers is a damaged
// file, or one that smuggles something.
inline Result<void> Safetensors::check_cover(std::span<const std::byte> payload) const {
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : tensors_) order.push_back(&tensor);
  const auto start = [&](const Tensor& tensor) { return tensor.bytes.data() - payload.data(); };
  std::sort(order.begin(), order.end(), [&](const Tensor* a, const Tensor* b) {
    return std::pair(start(*a), a->bytes.size()) < std::pair(start(*b), b->bytes.size());
  });
  std::ptrdiff_t covered = 0;
  for (const Tensor* tensor : order) {
    if (start(*tensor) < covered) {
      return malformed("tensor " + in_quotes(tensor->name) + " overlaps the one before it");
    }
    if (start(*tensor) > covered) {
      return malformed("no tensor covers the bytes before " + in_quotes(tensor->name));
    }
    covered += static_cast<std::ptrdiff_t>(tensor->bytes.size());
  }
  if (covered != static_cast<std::ptrdiff_t>(payload.size())) {
    return malformed("no tensor covers the last " +
                     std::to_string(static_cast<std::ptrdiff_t>(payload.size()) - covered) +
                     " bytes");
  }
  return {};
}

}  // namespace bisup::io
