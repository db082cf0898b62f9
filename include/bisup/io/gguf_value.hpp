// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a metadata value of a GGUF file? A type and a view of its bytes, which Gguf has checked;
// the typed getters decode it, or say nothing if it is of another type. The file must outlive it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace bisup::io {

enum class GgufType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

[[nodiscard]] constexpr std::size_t bytes_of(GgufType type) noexcept {  // 0: varies
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    case GgufType::string:
    case GgufType::array: break;
  }
  return 0;
}

[[nodiscard]] constexpr const char* name(GgufType type) noexcept {
  constexpr const char* names[] = {"u8",      "i8",     "u16",   "i16", "u32", "i32", "f32",
                                   "boolean", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::uint32_t>(type)];
}

class GgufValue {
 public:
  // Requires bytes that hold `size` elements of `type`, strings with their lengths before them.
  GgufValue(GgufType type, bool array, std::size_t size, std::span<const std::byte> bytes)
      : type_(type), array_(array), size_(size), bytes_(bytes) {}

  [[nodiscard]] GgufType type() const noexcept { return type_; }  // of an array's elements
  [[nodiscard]] bool is_array() const noexcept { return array_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }  // elements; 1 of no array
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

  [[nodiscard]] std::optional<std::string_view> string() const { return alone(strings_in()); }
  // Any integer type whose value fits.
  [[nodiscard]] std::optional<std::int64_t> integer() const {
    return alone(numbers_in<std::int64_t>());
  }
  // Any integer or float type.
  [[nodiscard]] std::optional<double> number() const { return alone(numbers_in<double>()); }
  [[nodiscard]] std::optional<bool> boolean() const {
    if (array_ || type_ != GgufType::boolean) return std::nullopt;
    return bytes_[0] != std::byte{0};
  }
  [[nodiscard]] std::optional<std::vector<std::string_view>> strings() const {
    return array_ ? strings_in() : std::nullopt;
  }
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers() const {
    return array_ ? numbers_in<std::int64_t>() : std::nullopt;
  }
  [[nodiscard]] std::optional<std::vector<float>> numbers() const {
    return array_ ? numbers_in<float>() : std::nullopt;
  }

 private:
  template <class T>
  [[nodiscard]] std::optional<T> alone(const std::optional<std::vector<T>>& values) const {
    return !array_ && values ? std::optional<T>(values->front()) : std::nullopt;
  }

  template <class T>
  [[nodiscard]] T load(std::size_t offset) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }

  [[nodiscard]] std::optional<std::vector<std::string_view>> strings_in() const {
    if (type_ != GgufType::string) return std::nullopt;
    std::vector<std::string_view> values;
    values.reserve(size_);
    for (std::size_t i = 0, at = 0; i < size_; ++i) {
      const auto length = static_cast<std::size_t>(load<std::uint64_t>(at));
      at += sizeof(std::uint64_t);
      values.emplace_back(reinterpret_cast<const char*>(bytes_.data() + at), length);
      at += length;
    }
    return values;
  }

  template <class Stored, class T>
  [[nodiscard]] std::optional<std::vector<T>> converted() const {
    std::vector<T> values(size_);
    for (std::size_t i = 0; i < size_; ++i) {
      const auto value = load<Stored>(i * sizeof(Stored));
      if constexpr (sizeof(Stored) == 8 && Stored(-1) > Stored(0) && !std::is_floating_point_v<T>) {
        if (value > static_cast<Stored>(std::numeric_limits<T>::max())) return std::nullopt;
      }
      values[i] = static_cast<T>(value);
    }
    return values;
  }

  template <class T>
  [[nodiscard]] std::optional<std::vector<T>> numbers_in() const {
    switch (type_) {
      case GgufType::u8: return converted<std::uint8_t, T>();
      case GgufType::i8: return converted<std::int8_t, T>();
      case GgufType::u16: return converted<std::uint16_t, T>();
      case GgufType::i16: return converted<std::int16_t, T>();
      case GgufType::u32: return converted<std::uint32_t, T>();
      case GgufType::i32: return converted<std::int32_t, T>();
      case GgufType::u64: return converted<std::uint64_t, T>();
      case GgufType::i64: return converted<std::int64_t, T>();
      case GgufType::f32:
        if constexpr (std::is_floating_point_v<T>) return converted<float, T>();
        break;
      case GgufType::f64:
        if constexpr (std::is_floating_point_v<T>) return converted<double, T>();
        break;
      case GgufType::boolean:
      case GgufType::string:
      case GgufType::array: break;
    }
    return std::nullopt;
  }

  GgufType type_;
  bool array_;
  std::size_t size_;
  std::span<const std::byte> bytes_;
};

}  // namespace bisup::io
