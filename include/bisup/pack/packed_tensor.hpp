// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who owns packed weights? PackedTensor<F, L>, whose type says everything; move-only, copied by
// name. The run-time form is AnyPackedTensor; quant/nearest.hpp makes either from floats.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <utility>

#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

namespace detail {

inline void store_scale(const Format& format, void* scales, std::size_t i, float scale) {
  switch (format.scale) {
    case Scale::f16: static_cast<Half*>(scales)[i] = to_half(scale); return;
    case Scale::bf16: static_cast<BFloat16*>(scales)[i] = to_bfloat16(scale); return;
    case Scale::f32: static_cast<float*>(scales)[i] = scale; return;
  }
}

}  // namespace detail

// One allocation for codes, scales and zero points, each at a cache line.
class PackedBuffer {
 public:
  static Result<PackedBuffer> allocate(const PackedShape& shape) {
    if (shape.rows <= 0 || shape.cols <= 0 || !shape.format.valid()) {
      return Error{Errc::wrong_shape, "a packed tensor needs at least one row and column"};
    }
    PackedBuffer buffer;
    buffer.scales_at_ = round_up(shape.code_bytes());
    buffer.zeros_at_ =
        buffer.scales_at_ +
        round_up(shape.scale_count() * static_cast<std::size_t>(bytes_of(shape.format.scale)));
    const std::size_t bytes = buffer.zeros_at_ + (shape.format.affine() ? shape.scale_count() : 0);
#if BISUP_EXCEPTIONS
    try {
      buffer.data_ = AlignedBuffer<std::uint8_t>(bytes);
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory,
                   "cannot allocate " + std::to_string(bytes) + " bytes for packed weights"};
    }
#else
    buffer.data_ = AlignedBuffer<std::uint8_t>(bytes);
#endif
    return buffer;
  }
  [[nodiscard]] PackedBuffer clone() const {
    PackedBuffer copy;
    copy.data_ = AlignedBuffer<std::uint8_t>(data_.size());
    std::copy_n(data_.data(), data_.size(), copy.data_.data());
    copy.scales_at_ = scales_at_, copy.zeros_at_ = zeros_at_;
    return copy;
  }
  [[nodiscard]] std::uint8_t* codes() noexcept {
    return data_.data();
  }
  [[nodiscard]] void* scales() noexcept {
    return data_.data() + scales_at_;
  }
  [[nodiscard]] std::uint8_t* zeros() noexcept {
    return zeros_at_ < data_.size() ? data_.data() + zeros_at_ : nullptr;
  }
  [[nodiscard]] const std::uint8_t* codes() const noexcept {
    return data_.data();
  }
  [[nodiscard]] const void* scales() const noexcept {
    return data_.data() + scales_at_;
  }
  [[nodiscard]] const std::uint8_t* zeros() const noexcept {
    return zeros_at_ < data_.size() ? data_.data() + zeros_at_ : nullptr;
  }

 private:
  static constexpr std::size_t round_up(std::size_t bytes) {
    return (bytes + 63) / 64 * 64;
  }
  AlignedBuffer<std::uint8_t> data_;
  std::size_t scales_at_ = 0, zeros_at_ = 0;
};

template <AnyFormat F, BijectiveLayout<F::bits> L = panel16>
class PackedTensor {
 public:
  static Result<PackedTensor> allocate(int rows, int cols) {
    const PackedShape shape{F::value, rows, cols, L::tile_rows, L::tile_codes};
    auto buffer = PackedBuffer::allocate(shape);
    if (!buffer) return buffer.error();
    return PackedTensor(shape, std::move(buffer).value());
  }
  // Takes over a buffer that was allocated for `shape`.
  PackedTensor(const PackedShape& shape, PackedBuffer&& buffer)
      : shape_(shape), buffer_(std::move(buffer)) {
    BISUP_EXPECTS(shape.format == F::value && shape.tile_rows == L::tile_rows &&
                  shape.tile_codes == L::tile_codes);
  }
  [[nodiscard]] PackedTensor clone() const { return {shape_, buffer_.clone()}; }
  [[nodiscard]] PackedView<F, L> view() const noexcept {
    return {buffer_.codes(), static_cast<const scale_t<F>*>(buffer_.scales()), buffer_.zeros(),
            shape_.rows, shape_.cols};
  }
  [[nodiscard]] const PackedShape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return shape_.bytes(); }
  [[nodiscard]] PackedBuffer& buffer() noexcept { return buffer_; }

 private:
  PackedShape shape_;
  PackedBuffer buffer_;
};

}  // namespace bisup
