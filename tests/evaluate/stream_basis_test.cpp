// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/evaluate/stream_basis.hpp>
#include <bisup/transform/random_signs.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

DenseView view(const Matrix<float>& m) {
  return {m.data(), DType::f32, m.rows(), m.cols()};
}

TEST_CASE("a rotated stream is found by its embeddings") {
  ThreadPool pool(2);
  const auto rotation = RandomizedHadamard::make(widest_hadamard(96), 7).value();
  const auto embedding = test::normals(500, 96, 1);
  auto rotated = embedding.clone();
  rotation.apply(rotated.ref(), pool);
  for (int r = 0; r < rotated.rows(); ++r) {
    for (float& x : rotated.row(r)) x = to_float(to_half(x));
  }
  const auto basis = StreamBasis::between(view(embedding), view(rotated), pool);
  REQUIRE(basis);
  CHECK_FALSE(basis->is_identity());
  const auto x = test::normals(5, 96, 2);
  auto expected = x.clone();
  rotation.apply(expected.ref(), pool);
  Matrix<float> y(5, 96);
  basis->apply(x.ref(), y.ref(), pool);
  for (int r = 0; r < 5; ++r) {
    // Embeddings rounded by 2^-12 leave an error of about 2^-12 sqrt(96 / 384) a value.
    for (int c = 0; c < 96; ++c) CHECK(std::fabs(y(r, c) - expected(r, c)) < 0x1p-9f);
  }
}

TEST_CASE("rounded embeddings are the same stream, others are none") {
  ThreadPool pool(1);
  const auto embedding = test::normals(300, 64, 1);
  auto rounded = embedding.clone();
  for (int r = 0; r < rounded.rows(); ++r) {
    for (float& x : rounded.row(r)) x = to_float(to_half(x));
  }
  const auto basis = StreamBasis::between(view(embedding), view(rounded), pool);
  REQUIRE(basis);
  CHECK(basis->is_identity());
  const auto other = test::normals(300, 64, 2), wider = test::normals(300, 96, 1);
  CHECK(StreamBasis::between(view(embedding), view(other), pool).error().code == Errc::unsupported);
  CHECK(StreamBasis::between(view(embedding), view(wider), pool).error().code == Errc::wrong_shape);
}

}  // namespace
