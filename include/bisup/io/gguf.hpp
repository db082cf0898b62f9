// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is in a .gguf file? Its metadata by key and its tensors as views into the mapped file, once
// both tables have been checked. What the blocks mean is gguf_blocks.hpp.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/gguf_types.hpp>
#include <bisup/io/gguf_value.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/tensor.hpp>

namespace bisup::io {

struct GgufTensor {
  std::string_view name;
  GgmlTypeFacts type;
  std::vector<std::int64_t> shape;  // slowest first, as everywhere; the file has it reversed
  std::span<const std::byte> bytes;

  [[nodiscard]] std::int64_t cols() const { return shape.back(); }
  [[nodiscard]] std::int64_t rows() const {
    std::int64_t count = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) count *= shape[i];
    return count;
  }
  [[nodiscard]] std::size_t row_bytes() const {
    return static_cast<std::size_t>(cols() / type.block * type.block_bytes);
  }
};

class Gguf {
 public:
  // Maps the file and checks both tables completely; the tensors' values are not looked at.
  [[nodiscard]] static Result<Gguf> open(const std::filesystem::path& path);
  // The same for bytes that lie elsewhere, kept alive by `owner`; errors name `where`.
  [[nodiscard]] static Result<Gguf> parse(std::span<const std::byte> bytes,
                                          std::shared_ptr<const void> owner, std::string where);

  [[nodiscard]] const std::string& path() const noexcept { return where_; }
  // Holds the bytes that values, names and tensors look at.
  [[nodiscard]] const std::shared_ptr<const void>& owner() const noexcept { return owner_; }

  [[nodiscard]] const std::map<std::string_view, GgufValue>& metadata() const noexcept {
    return metadata_;
  }
  [[nodiscard]] const GgufValue* find(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }
  // Errors: the key is missing, or of another type than asked for.
  [[nodiscard]] Result<std::string_view> string(std::string_view key) const {
    return get(key, &GgufValue::string, "a string");
  }
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const {
    return get(key, &GgufValue::integer, "an integer");
  }
  [[nodiscard]] Result<double> number(std::string_view key) const {
    return get(key, &GgufValue::number, "a number");
  }
  [[nodiscard]] Result<bool> boolean(std::string_view key) const {
    return get(key, &GgufValue::boolean, "a boolean");
  }
  [[nodiscard]] Result<std::vector<std::string_view>> strings(std::string_view key) const {
    return get(key, &GgufValue::strings, "an array of strings");
  }
  [[nodiscard]] Result<std::vector<std::int64_t>> integers(std::string_view key) const {
    return get(key, &GgufValue::integers, "an array of integers");
  }
  [[nodiscard]] Result<std::vector<float>> numbers(std::string_view key) const {
    return get(key, &GgufValue::numbers, "an array of numbers");
  }

  // In the order of their names.
  [[nodiscard]] const std::map<std::string_view, GgufTensor>& tensors() const noexcept {
    return tensors_;
  }
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

 private:
  class Cursor;

  template <class T>
  [[nodiscard]] Result<T> get(std::string_view key, std::optional<T> (GgufValue::*getter)() const,
                              const char* wanted) const {
    const GgufValue* value = find(key);
    if (value == nullptr) {
      return Error{Errc::missing, "has no metadata " + in_quotes(key), path()};
    }
    if (auto decoded = (value->*getter)()) return *std::move(decoded);
    return malformed("the metadata " + in_quotes(key) + " is not " + wanted + " but " +
                     (value->is_array() ? "an array of type " : "of type ") + name(value->type()));
  }
  [[nodiscard]] Error malformed(std::string message) const {
    return {Errc::malformed, std::move(message), path()};
  }
  [[nodiscard]] Error truncated(std::string message) const {
    return {Errc::truncated, std::move(message), path()};
  }
  [[nodiscard]] Result<void> read_version(Cursor& cursor) const;
  [[nodiscard]] Result<GgufValue> read_value(Cursor& cursor, std::string_view key) const;
  [[nodiscard]] Result<std::uint64_t> alignment() const;
  // The offset of the tensor's bytes inside the data, which begins only behind the last entry.
  [[nodiscard]] Result<std::uint64_t> read_tensor(Cursor& cursor, GgufTensor& tensor) const;
  [[nodiscard]] Result<void> place(std::span<const std::byte> data, std::uint64_t alignment,
                                   const std::map<std::string_view, std::uint64_t>& offsets);

  std::shared_ptr<const void> owner_;
  std::string where_;
  std::map<std::string_view, GgufValue> metadata_;
  std::map<std::string_view, GgufTensor> tensors_;
};

// Walks over the file; nothing is taken that is not there.
class Gguf::Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::size_t offset() const noexcept { return at_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - at_; }

  [[nodiscard]] std::optional<std::span<const std::byte>> take(std::uint64_t count) {
    if (count > left()) return std::nullopt;
    const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += taken.size();
    return taken;
  }
  template <class T>
  [[nodiscard]] std::optional<T> take() {
    const auto taken = take(sizeof(T));
    if (!taken) return std::nullopt;
    T value;
    std::memcpy(&value, taken->data(), sizeof value);
    return value;
  }
  [[nodiscard]] std::optional<std::string_view> take_string() {
    const auto length = take<std::uint64_t>();
    const auto taken = length ? take(*length) : std::nullopt;
    if (!taken) return std::nullopt;
    return std::string_view(reinterpret_cast<const char*>(taken->data()), taken->size());
  }
  // What lies between two places passed earlier.
  [[nodiscard]] std::span<const std::byte> since(std::size_t start) const {
    return bytes_.subspan(start, at_ - start);
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

inline Result<Gguf> Gguf::open(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return file.error();
  const auto bytes = file.value()->bytes();
  return parse(bytes, std::move(file).value(), path.string());
}

inline Result<Gguf> Gguf::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                std::string where) {
  Gguf result;
  result.owner_ = std::move(owner), result.where_ = std::move(where);
  Cursor cursor(bytes);
  if (auto read = result.read_version(cursor); !read) return read.error();
  const auto tensor_count = cursor.take<std::uint64_t>();
  const auto value_count = cursor.take<std::uint64_t>();
  if (!tensor_count || !value_count) return result.truncated("ends inside its header");

  for (std::uint64_t i = 0; i < *value_count; ++i) {
    const auto key = cursor.take_string();
    if (!key) return result.truncated("ends inside its metadata");
    auto value = result.read_value(cursor, *key);
    if (!value) return value.error();
    if (!result.metadata_.emplace(*key, *value).second) {
      return result.malformed("has the metadata " + in_quotes(*key) + " twice");
    }
  }
  std::map<std::string_view, std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < *tensor_count; ++i) {
    GgufTensor tensor = {};
    const auto offset = result.read_tensor(cursor, tensor);
    if (!offset) return offset.error();
    if (!offsets.emplace(tensor.name, *offset).second) {
      return result.malformed("has the tensor " + in_quotes(tensor.name) + " twice");
    }
    result.tensors_.emplace(tensor.name, std::move(tensor));
  }
  const auto alignment = result.alignment();
  if (!alignment) return alignment.error();
  const std::uint64_t start = (cursor.offset() + *alignment - 1) / *alignment * *alignment;
  const auto data = bytes.subspan(std::min(static_cast<std::size_t>(start), bytes.size()));
  if (auto placed = result.place(data, *alignment, offsets); !placed) return placed.error();
  return result;
}

inline Result<void> Gguf::read_version(Cursor& cursor) const {
  const auto magic = cursor.take(4);
  if (!magic) return truncated("has no room for a header");
  if (std::memcmp(magic->data(), "GGUF", 4) != 0) return malformed("is not a GGUF file");
  const auto version = cursor.take<std::uint32_t>();
  if (!version) return truncated("has no room for a header");
  if (*version == 2 || *version == 3) return {};
  if (*version == 1) {
    return Error{Errc::unsupported,
                 "is GGUF version 1, which was replaced in 2023; 2 and 3 are read", path()};
  }
  if (*version != 0 && (*version & 0xffff) == 0) {
    return Error{Errc::unsupported, "is a big-endian GGUF file", path()};
  }
  return Error{Errc::unknown_version,
               "is GGUF version " + std::to_string(*version) + "; 2 and 3 are read", path()};
}

inline Result<GgufValue> Gguf::read_value(Cursor& cursor, std::string_view key) const {
  const auto cut = [&] { return truncated("ends inside the metadata " + in_quotes(key)); };
  const auto wrong = [&](const std::string& what) {
    return malformed("the metadata " + in_quotes(key) + " " + what);
  };
  auto number = cursor.take<std::uint32_t>();
  if (!number) return cut();
  const bool array = *number == static_cast<std::uint32_t>(GgufType::array);
  std::uint64_t size = 1;
  if (array) {
    number = cursor.take<std::uint32_t>();
    const auto count = cursor.take<std::uint64_t>();
    if (!number || !count) return cut();
    size = *count;
  }
  if (*number > static_cast<std::uint32_t>(GgufType::f64)) {
    return wrong("has the unknown type " + std::to_string(*number));
  }
  const auto type = static_cast<GgufType>(*number);
  if (type == GgufType::array) {
    return Error{Errc::unsupported, "the metadata " + in_quotes(key) + " is an array of arrays",
                 path()};
  }
  const std::size_t start = cursor.offset();
  if (type == GgufType::string) {
    for (std::uint64_t i = 0; i < size; ++i) {
      if (!cursor.take_string()) return cut();
    }
  } else if (size > cursor.left() / bytes_of(type) || !cursor.take(size * bytes_of(type))) {
    return cut();
  }
  const auto bytes = cursor.since(start);
  if (type == GgufType::boolean) {
    for (const std::byte byte : bytes) {
      if (byte > std::byte{1}) return wrong("has a boolean that is neither 0 nor 1");
    }
  }
  return GgufValue(type, array, static_cast<std::size_t>(size), bytes);
}

inline Result<std::uint64_t> Gguf::alignment() const {
  if (find("general.alignment") == nullptr) return std::uint64_t{32};
  const auto value = integer("general.alignment");
  if (!value) return value.error();
  if (*value < 1 || *value > 1 << 20 || !std::has_single_bit(static_cast<std::uint64_t>(*value))) {
    return malformed("has the alignment " + std::to_string(*value));
  }
  return static_cast<std::uint64_t>(*value);
}

inline Result<std::uint64_t> Gguf::read_tensor(Cursor& cursor, GgufTensor& tensor) const {
  const auto name = cursor.take_string();
  if (!name) return truncated("ends inside its table of tensors");
  tensor.name = *name;
  const auto cut = [&] { return truncated("ends inside the entry of tensor " + in_quotes(*name)); };
  const auto wrong = [&](const std::string& what) {
    return malformed("tensor " + in_quotes(*name) + " " + what);
  };
  const auto dimensions = cursor.take<std::uint32_t>();
  if (!dimensions) return cut();
  if (*dimensions < 1 || *dimensions > 4) {
    return wrong("has " + std::to_string(*dimensions) + " dimensions");
  }
  for (std::uint32_t i = 0; i < *dimensions; ++i) {
    const auto extent = cursor.take<std::uint64_t>();
    if (!extent) return cut();
    if (*extent < 1 ||
        *extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return wrong("has an extent of " + std::to_string(*extent));
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(*extent));
  }
  const auto number = cursor.take<std::uint32_t>();
  const auto offset = cursor.take<std::uint64_t>();
  if (!number || !offset) return cut();
  const auto type = facts(*number);
  if (!type) {
    return Error{Errc::unsupported,
                 "tensor " + in_quotes(*name) + " has the unknown type " + std::to_string(*number),
                 path()};
  }
  tensor.type = *type;
  if (tensor.cols() % type->block != 0) {
    return wrong("of type " + std::string(type->name) + " has rows of " +
                 std::to_string(tensor.cols()) + ", not whole blocks of " +
                 std::to_string(type->block));
  }
  return *offset;
}

inline Result<void> Gguf::place(std::span<const std::byte> data, std::uint64_t alignment,
                                const std::map<std::string_view, std::uint64_t>& offsets) {
  std::vector<std::pair<std::uint64_t, GgufTensor*>> order;
  for (auto& [name, tensor] : tensors_) {
    const std::uint64_t offset = offsets.at(name);
    if (offset % alignment != 0) {
      return malformed("tensor " + in_quotes(name) + " is not aligned to " +
                       std::to_string(alignment) + " bytes");
    }
    auto blocks = tensor.shape;
    blocks.back() /= tensor.type.block;
    const auto needed = byte_count(blocks, static_cast<std::uint64_t>(tensor.type.block_bytes));
    const auto elements = byte_count(tensor.shape, 1);
    if (!needed || !elements) {
      return malformed("tensor " + in_quotes(name) + " has the impossible shape " +
                       describe(tensor.shape));
    }
    if (offset > data.size() || *needed > data.size() - offset) {
      return truncated("tensor " + in_quotes(name) + " ends beyond the file");
    }
    tensor.bytes =
        data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(*needed));
    order.emplace_back(offset, &tensor);
  }
  std::sort(order.begin(), order.end());
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i].first < order[i - 1].first + order[i - 1].second->bytes.size()) {
      return malformed("tensor " + in_quotes(order[i].second->name) +
                       " overlaps the one before it");
    }
  }
  return {};
}

}  // namespace bisup::io
