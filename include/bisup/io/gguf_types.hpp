// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which element types does a GGUF file know? Their numbers, names and sizes, also of those that
// this library does not read: an error must name them, and the bounds of their tensors must be
// checked.

#include <cstdint>
#include <optional>
#include <string_view>

namespace bisup::io {

enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

struct GgmlTypeFacts {
  std::uint32_t number;
  const char* name;
  int block;  // elements
  int block_bytes;
};

// Numbers, block lengths and sizes as in ggml-common.h and the GGUF specification. Numbers 4, 5, 31
// to 33 and 36 to 38 were types that no file holds any more.
inline constexpr GgmlTypeFacts ggml_types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
};

[[nodiscard]] constexpr std::optional<GgmlTypeFacts> facts(std::uint32_t number) noexcept {
  for (const GgmlTypeFacts& known : ggml_types) {
    if (known.number == number) return known;
  }
  return std::nullopt;
}
[[nodiscard]] constexpr GgmlTypeFacts facts(GgmlType type) noexcept {
  return facts(static_cast<std::uint32_t>(type)).value_or(GgmlTypeFacts{0, "unknown", 1, 1});
}
[[nodiscard]] constexpr const char* name(GgmlType type) noexcept {
  return facts(type).name;
}

}  // namespace bisup::io
