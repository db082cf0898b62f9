// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In what do unquantized weights come? f32, f16 or bf16, row-major; DenseView looks at them
// wherever they lie (a mapped file, say) and kernels convert as they read. i8 are codes: the
// numbers -128 to 127, whose scale is for their owner to apply (llama/branch.hpp).

#include <cstddef>
#include <cstdint>

#include <bisup/core/contract.hpp>
#include <bisup/core/float16.hpp>

namespace bisup {

enum class DType : std::uint8_t { f32, f16, bf16, i8 };

[[nodiscard]] constexpr int bytes_of(DType type) {
  return type == DType::f32 ? 4 : type == DType::i8 ? 1 : 2;
}
[[nodiscard]] constexpr const char* name(DType type) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "i8"};
  return names[static_cast<int>(type)];
}

struct DenseView {
  const void* data = nullptr;
  DType type = DType::f32;
  int rows = 0, cols = 0;  // [out features, in features]

  [[nodiscard]] const std::byte* row_data(int row) const noexcept {
    return static_cast<const std::byte*>(data) +
           static_cast<std::ptrdiff_t>(row) * cols * bytes_of(type);
  }
  [[nodiscard]] float operator()(int row, int col) const {
    BISUP_EXPECTS(row >= 0 && row < rows && col >= 0 && col < cols);
    const std::byte* at = row_data(row);
    switch (type) {
      case DType::f16: return to_float(reinterpret_cast<const Half*>(at)[col]);
      case DType::bf16: return to_float(reinterpret_cast<const BFloat16*>(at)[col]);
      case DType::i8: return static_cast<float>(reinterpret_cast<const std::int8_t*>(at)[col]);
      case DType::f32: break;
    }
    return reinterpret_cast<const float*>(at)[col];
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) *
           static_cast<std::size_t>(bytes_of(type));
  }
};

}  // namespace bisup
