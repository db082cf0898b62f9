// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/pack/any_packed_tensor.hpp>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bisup_test.hpp>

using namespace bisup;

TEST_CASE("the run-time form keeps the memory of what it was made from") {
  auto typed = PackedTensor<int3_g64>::allocate(20, 128).value();
  typed.buffer().codes()[7] = 42;
  const std::uint8_t* codes = typed.view().codes;
  const AnyPackedTensor any(std::move(typed));
  REQUIRE(any.panels().codes == codes);
  REQUIRE(any.format() == int3_g64::value);
  REQUIRE(any.rows() == 20);
  REQUIRE(any.cols() == 128);
  const AnyPackedTensor shared = any;  // copies share
  REQUIRE(shared.panels().codes == codes);
  REQUIRE(shared.bytes() == any.shape().bytes());
}

TEST_CASE("memory of someone else lives as long as a tensor looks at it") {
  const PackedShape shape{Format{4, 32}, 16, 32};
  auto owner = std::make_shared<std::vector<std::uint8_t>>(shape.bytes());
  const std::weak_ptr<void> alive = owner;
  AnyPackedTensor tensor({owner->data(), owner->data() + shape.code_bytes(), nullptr, shape},
                         owner);
  owner.reset();
  REQUIRE_FALSE(alive.expired());
  tensor = AnyPackedTensor();
  REQUIRE(alive.expired());
}

TEST_CASE("a width becomes a constant, and one without kernels is refused") {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    REQUIRE(with_bits(bits, []<int Bits>() { return Bits; }) == bits);
  }
  REQUIRE_THROWS_AS(with_bits(7, []<int Bits>() { return Bits; }), ContractViolation);
}

TEST_CASE("new scales leave codes and zero points as they are, and an overflow is refused") {
  for (const Format format : {Format{3, 64}, Format{4, 32, Zero::affine, Scale::f32}}) {
    const PackedShape shape{format, 20, 128};
    auto buffer = PackedBuffer::allocate(shape).value();
    for (std::size_t i = 0; i < shape.code_bytes(); ++i)
      buffer.codes()[i] = static_cast<std::uint8_t>(37 * i);
    for (std::size_t i = 0; i < shape.scale_count(); ++i) {
      detail::store_scale(format, buffer.scales(), i, 0.25f);
      if (format.affine()) buffer.zeros()[i] = static_cast<std::uint8_t>(i % 16);
    }
    const AnyPackedTensor before(shape, std::move(buffer));
    Matrix<float> factors(20, shape.groups());
    for (int r = 0; r < 20; ++r) {
      for (int g = 0; g < factors.cols(); ++g)
        factors(r, g) = 1 + 0.01f * static_cast<float>(r + g);
    }
    const auto after = rescaled(before, factors.ref()).value();
    CHECK(after.shape().format == format);
    CHECK(std::equal(before.panels().codes, before.panels().codes + shape.code_bytes(),
                     after.panels().codes));
    for (int r = 0; r < 20; ++r) {
      for (int g = 0; g < factors.cols(); ++g) {
        CHECK(after.panels().scale(r, g) == rounded_to(format.scale, 0.25f * factors(r, g)));
        CHECK(after.panels().zero(r, g) == before.panels().zero(r, g));
      }
    }
    factors(3, 1) = std::numeric_limits<float>::infinity();
    const auto refused = rescaled(before, factors.ref());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::not_finite);
    CHECK(refused.error().message.find("row 3, group 1") != std::string::npos);
  }
}
