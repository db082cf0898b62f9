// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What holds packed weights whose format is known only at run time? AnyPackedTensor: panel16, the
// format as a field, memory shared with whatever owns it (a buffer, or a mapped artefact).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/pack/packed_tensor.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

class AnyPackedTensor {
 public:
  AnyPackedTensor() = default;
  // A view of memory that `owner` keeps alive: loading an artefact repacks nothing.
  AnyPackedTensor(const PackedPanels& panels, std::shared_ptr<const void> owner)
      : panels_(panels), owner_(std::move(owner)) {}
  template <AnyFormat F>
  explicit AnyPackedTensor(PackedTensor<F, panel16>&& tensor)
      : AnyPackedTensor(tensor.shape(), std::move(tensor.buffer())) {}
  AnyPackedTensor(const PackedShape& shape, PackedBuffer&& buffer) {
    auto owner = std::make_shared<PackedBuffer>(std::move(buffer));
    panels_ = {owner->codes(), owner->scales(), owner->zeros(), shape};
    owner_ = std::move(owner);
  }

  [[nodiscard]] const PackedPanels& panels() const noexcept { return panels_; }
  [[nodiscard]] const PackedShape& shape() const noexcept { return panels_.shape; }
  [[nodiscard]] const Format& format() const noexcept { return panels_.shape.format; }
  [[nodiscard]] int rows() const noexcept { return panels_.shape.rows; }
  [[nodiscard]] int cols() const noexcept { return panels_.shape.cols; }
  [[nodiscard]] std::size_t bytes() const noexcept { return panels_.shape.bytes(); }

 private:
  PackedPanels panels_;
  std::shared_ptr<const void> owner_;
};

// The same codes with each scale times its factor, rounded to the scale's type. factors: [rows,
// groups]. Errors: not_finite (a scale that is NaN or too large for its type), out_of_memory.
[[nodiscard]] inline Result<AnyPackedTensor> rescaled(const AnyPackedTensor& tensor,
                                                      MatrixRef<const float> factors) {
  const PackedShape& shape = tensor.shape();
  BISUP_EXPECTS(factors.rows() == shape.rows && factors.cols() <= shape.groups());
  auto buffer = PackedBuffer::allocate(shape);
  if (!buffer) return buffer.error();
  const PackedPanels& from = tensor.panels();
  std::copy_n(from.codes, shape.code_bytes(), buffer->codes());
  std::memcpy(buffer->scales(), from.scales,
              shape.scale_count() * static_cast<std::size_t>(bytes_of(shape.format.scale)));
  if (shape.format.affine()) std::copy_n(from.zeros, shape.scale_count(), buffer->zeros());
  const PackedPanels made(buffer->codes(), buffer->scales(), buffer->zeros(), shape);
  for (int r = 0; r < factors.rows(); ++r) {
    for (int g = 0; g < factors.cols(); ++g) {
      detail::store_scale(shape.format, buffer->scales(), shape.scale_index(r, g),
                          from.scale(r, g) * factors(r, g));
      if (!std::isfinite(made.scale(r, g))) {
        return Error{Errc::not_finite, "the scale of row " + std::to_string(r) + ", group " +
                                           std::to_string(g) + " is NaN or too large for its type"};
      }
    }
  }
  return AnyPackedTensor(shape, std::move(buffer).value());
}

// Calls visit.template operator()<Bits>() with the format's bits as a constant.
template <class Visit>
decltype(auto) with_bits(int bits, Visit&& visit) {
  switch (bits) {
    case 2: return visit.template operator()<2>();
    case 3: return visit.template operator()<3>();
    case 4: return visit.template operator()<4>();
    case 5: return visit.template operator()<5>();
    case 6: return visit.template operator()<6>();
    default: BISUP_EXPECTS(bits == 8); return visit.template operator()<8>();
  }
}

}  // namespace bisup
