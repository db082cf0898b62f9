// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What holds packed weights whose format is known only at run time? AnyPackedTensor: panel16, the
// format as a field, memory shared with whatever owns it (a buffer, or a mapped artefact).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include <bisup/core/contract.hpp>
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
