// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/stream.hpp>
#include <bisup/core/random.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> activations(int tokens, int hidden, std::uint64_t seed) {
  Random random(seed);
  Matrix<float> x(tokens, hidden);
  for (int t = 0; t < tokens; ++t) {
    for (float& v : x.row(t))
      v = static_cast<float>(std::exp(4 * random.normal()) * random.normal());
  }
  return x;
}

TEST_CASE("f32 streams give back what was written, each sample its own") {
  const std::vector<int> lengths = {5, 1, 9};
  auto stream = Stream::allocate(lengths, 13, DType::f32);
  REQUIRE(stream);
  CHECK(stream->samples() == 3);
  CHECK(stream->hidden() == 13);
  CHECK(stream->bytes() == 15 * 13 * 4);
  for (const int i : {2, 0, 1})
    stream->write(
        i, activations(lengths[static_cast<std::size_t>(i)], 13, static_cast<std::uint64_t>(7 + i))
               .ref());
  Matrix<float> x;
  for (int i = 0; i < 3; ++i) {
    stream->read(i, x);
    const auto expected = activations(stream->length(i), 13, static_cast<std::uint64_t>(7 + i));
    REQUIRE(x.rows() == stream->length(i));
    for (int t = 0; t < x.rows(); ++t) {
      for (int c = 0; c < 13; ++c) REQUIRE(x(t, c) == expected(t, c));
    }
  }
}

TEST_CASE("bf16 streams round once: what was read is what is stored") {
  auto stream = Stream::allocate({40}, 64, DType::bf16);
  REQUIRE(stream);
  CHECK(stream->type() == DType::bf16);
  CHECK(stream->bytes() == 40 * 64 * 2);
  const auto x = activations(40, 64, 3);
  stream->write(0, x.ref());
  const std::vector<std::byte> stored(stream->data(), stream->data() + stream->bytes());
  Matrix<float> y;
  stream->read(0, y);
  bool rounded = false;
  for (int t = 0; t < 40; ++t) {
    for (int c = 0; c < 64; ++c) {
      CHECK(y(t, c) == to_float(to_bfloat16(x(t, c))));
      // Eight significant bits: half a step is 2^-8 of the number's power of two.
      CHECK(std::fabs(y(t, c) - x(t, c)) <= 0x1p-8f * std::fabs(x(t, c)));
      rounded = rounded || y(t, c) != x(t, c);
    }
  }
  CHECK(rounded);
  stream->write(0, y.ref());
  CHECK(std::equal(stored.begin(), stored.end(), stream->data()));
}

TEST_CASE("a stream lies where its caller says, or nowhere") {
  std::size_t asked = 0;
  const StreamMemory counted = [&](std::size_t bytes) { return asked = bytes, heap_memory(bytes); };
  auto stream = Stream::allocate({3, 4}, 8, DType::bf16, counted);
  REQUIRE(stream);
  CHECK(asked == stream->bytes());
  const StreamMemory none = [](std::size_t) -> Result<std::shared_ptr<std::byte>> {
    return Error{Errc::cannot_write, "no room"};
  };
  const auto refused = Stream::allocate({3}, 8, DType::f32, none);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message == "no room");
}

TEST_CASE("reading beyond the samples is the caller's mistake") {
  auto stream = Stream::allocate({2}, 4, DType::f32).value();
  Matrix<float> x(2, 4), short_one(1, 4);
  for (const int sample : {-1, 1}) {
    CHECK_THROWS_AS(stream.write(sample, x.ref()), ContractViolation);
    CHECK_THROWS_AS(stream.read(sample, x), ContractViolation);
  }
  CHECK_THROWS_AS(stream.write(0, short_one.ref()), ContractViolation);
}

}  // namespace
