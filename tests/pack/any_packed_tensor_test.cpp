// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/pack/any_packed_tensor.hpp>
#include <memory>
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
  AnyPackedTensor tensor({owner->data(), owner->data() + shape.code_bytes(), nullptr, shape}, owner);
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
