// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/pack/packed_tensor.hpp>
#include <cstring>

#include <bisup_test.hpp>

using namespace bisup;

static_assert(!std::is_copy_constructible_v<PackedTensor<int4_g128>>);
static_assert(std::is_nothrow_move_constructible_v<PackedTensor<int4_g128>>);

TEST_CASE("codes, scales and zero points each start at a cache line and do not overlap") {
  for (const Zero zero : {Zero::symmetric, Zero::affine}) {
    const PackedShape shape{Format{3, 32, zero, Scale::f16}, 17, 40};
    auto buffer = PackedBuffer::allocate(shape).value();
    const auto* codes = buffer.codes();
    const auto* scales = static_cast<const std::uint8_t*>(buffer.scales());
    const auto* zeros = buffer.zeros();
    REQUIRE(reinterpret_cast<std::uintptr_t>(codes) % 64 == 0);
    REQUIRE(reinterpret_cast<std::uintptr_t>(scales) % 64 == 0);
    REQUIRE(scales >= codes + shape.code_bytes());
    REQUIRE((zeros != nullptr) == shape.format.affine());
    if (zeros != nullptr) {
      REQUIRE(reinterpret_cast<std::uintptr_t>(zeros) % 64 == 0);
      REQUIRE(zeros >= scales + 2 * shape.scale_count());
    }
    // Every byte that the shape counts can be written (the sanitizer presets watch).
    std::memset(buffer.codes(), 1, shape.code_bytes());
    std::memset(buffer.scales(), 2, 2 * shape.scale_count());
    if (zeros != nullptr) std::memset(buffer.zeros(), 3, shape.scale_count());
    REQUIRE(codes[shape.code_bytes() - 1] == 1);
    REQUIRE(scales[2 * shape.scale_count() - 1] == 2);
  }
}

TEST_CASE("a clone has its own memory, a move takes it along") {
  auto tensor = PackedTensor<uint4_g64>::allocate(16, 64).value();
  tensor.buffer().codes()[5] = 77;
  auto copy = tensor.clone();
  REQUIRE(copy.buffer().codes()[5] == 77);
  copy.buffer().codes()[5] = 78;
  REQUIRE(tensor.view().codes[5] == 77);
  const std::uint8_t* codes = tensor.view().codes;
  const auto moved = std::move(tensor);
  REQUIRE(moved.view().codes == codes);
  REQUIRE(moved.view().rows == 16);
  REQUIRE(moved.view().zeros != nullptr);
  REQUIRE(moved.bytes() == 16 * 64 / 2 + 16 * 3);
}

TEST_CASE("an empty tensor and a wrong format are refused") {
  REQUIRE(PackedTensor<int4_g128>::allocate(0, 64).error().code == Errc::wrong_shape);
  REQUIRE(PackedTensor<int4_g128>::allocate(16, 0).error().code == Errc::wrong_shape);
  REQUIRE(PackedBuffer::allocate({Format{.bits = 9}, 16, 64}).error().code == Errc::wrong_shape);
  auto buffer = PackedBuffer::allocate({int4_g64::value, 16, 64}).value();
  REQUIRE_THROWS_AS(PackedTensor<int4_g128>({int4_g64::value, 16, 64}, std::move(buffer)), ContractViolation);
}
