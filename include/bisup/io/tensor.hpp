// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a tensor in a file? A name, an element type, a shape and a view of its bytes, row-major
// and little-endian; the file that it looks into must outlive it.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <bisup/core/dense.hpp>

namespace bisup::io {

// What files may hold. Weights to compute with are the three of bisup::DType.
enum class ElementType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

[[nodiscard]] constexpr std::size_t bytes_of(ElementType type) noexcept {
  switch (type) {
    case ElementType::f64:
    case ElementType::i64: return 8;
    case ElementType::f32:
    case ElementType::i32: return 4;
    case ElementType::f16:
    case ElementType::bf16:
    case ElementType::i16: return 2;
    case ElementType::i8:
    case ElementType::u8:
    case ElementType::boolean: break;
  }
  return 1;
}

// As safetensors files spell it.
[[nodiscard]] constexpr const char* name(ElementType type) noexcept {
  switch (type) {
    case ElementType::f64: return "F64";
    case ElementType::f32: return "F32";
    case ElementType::f16: return "F16";
    case ElementType::bf16: return "BF16";
    case ElementType::i64: return "I64";
    case ElementType::i32: return "I32";
    case ElementType::i16: return "I16";
    case ElementType::i8: return "I8";
    case ElementType::u8: return "U8";
    case ElementType::boolean: break;
  }
  return "BOOL";
}

[[nodiscard]] constexpr std::optional<DType> dense_type(ElementType type) noexcept {
  switch (type) {
    case ElementType::f32: return DType::f32;
    case ElementType::f16: return DType::f16;
    case ElementType::bf16: return DType::bf16;
    default: return std::nullopt;
  }
}

struct Tensor {
  std::string name = {};
  ElementType type = ElementType::u8;
  std::vector<std::int64_t> shape = {};  // slowest first; empty: one element
  std::span<const std::byte> bytes = {};
};

// The product of a shape and an element's size, or nothing if it leaves 63 bits or is negative.
[[nodiscard]] constexpr std::optional<std::uint64_t> byte_count(
    std::span<const std::int64_t> shape, std::uint64_t element_bytes) noexcept {
  constexpr std::uint64_t largest = std::numeric_limits<std::int64_t>::max();
  std::uint64_t count = element_bytes;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    const auto factor = static_cast<std::uint64_t>(extent);
    if (extent < 0 || (factor > 0 && count > largest / factor)) return std::nullopt;
    if (factor == 0) {
      empty = true;
    } else {
      count *= factor;
    }
  }
  return empty ? 0 : count;
}

// "[2048, 128]"
[[nodiscard]] inline std::string describe(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

}  // namespace bisup::io
