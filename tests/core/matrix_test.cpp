// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/matrix.hpp>

#include <cstdint>
#include <numeric>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("a view into the middle sees the right elements") {
  std::vector<int> storage(6 * 10);
  std::iota(storage.begin(), storage.end(), 0);
  const MatrixRef<int> whole(storage.data(), 6, 10);
  const MatrixRef<const int> part = whole.rows(2, 3).cols(4, 5);
  REQUIRE((part.rows() == 3 && part.cols() == 5 && part.stride() == 10));
  for (int r = 0; r < 3; ++r) {
    CHECK(part.row(r).size() == 5);
    for (int c = 0; c < 5; ++c) {
      CHECK(part(r, c) == (r + 2) * 10 + c + 4);
      CHECK(part.row(r)[static_cast<std::size_t>(c)] == part(r, c));
    }
  }
  whole(2, 4) = -1;
  CHECK(part(0, 0) == -1);
}

TEST_CASE("a transposed copy has rows where columns were") {
  std::vector<int> storage(5 * 7);
  std::iota(storage.begin(), storage.end(), 0);
  const MatrixRef<const int> part = MatrixRef<int>(storage.data(), 5, 7).rows(1, 3).cols(2, 4);
  const Matrix<int> columns = transposed(part);
  REQUIRE((columns.rows() == 4 && columns.cols() == 3));
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 4; ++c) CHECK(columns(c, r) == part(r, c));
  }
}

TEST_CASE("views refuse what lies outside") {
  std::vector<float> storage(12);
  const MatrixRef<float> view(storage.data(), 3, 4);
  CHECK_THROWS_AS(view.row(3), ContractViolation);
  CHECK_THROWS_AS(view.row(-1), ContractViolation);
  CHECK_THROWS_AS(view.rows(2, 2), ContractViolation);
  CHECK_THROWS_AS(view.cols(-1, 2), ContractViolation);
  CHECK_THROWS_AS((MatrixRef<float>(storage.data(), 3, 4, 3)), ContractViolation);
  CHECK(view.rows(3, 0).empty());
}

TEST_CASE("a matrix starts at a cache line, zeroed") {
  for (const int cols : {1, 3, 16, 17, 172}) {
    Matrix<float> matrix(5, cols);
    CHECK(reinterpret_cast<std::uintptr_t>(matrix.data()) % 64 == 0);
    float sum = 0;
    for (int r = 0; r < 5; ++r) {
      for (const float x : matrix.row(r)) sum += x;
    }
    CHECK(sum == 0);
  }
}

TEST_CASE("a clone is equal and apart, after shrinking too") {
  Matrix<int> matrix(4, 4);
  std::iota(matrix.data(), matrix.data() + 16, 0);
  matrix.resize(1, 2);
  CHECK(matrix(0, 1) == 1);
  Matrix<int> copy = matrix.clone();
  CHECK((copy.rows() == 1 && copy.cols() == 2 && copy(0, 1) == 1));
  copy(0, 1) = 9;
  CHECK(matrix(0, 1) == 1);
}

TEST_CASE("resizing reuses memory that suffices") {
  Matrix<int> matrix(8, 8);
  const int* before = matrix.data();
  matrix.resize(4, 16);
  CHECK(matrix.data() == before);
  matrix.resize(9, 8);
  CHECK((matrix.rows() == 9 && matrix.cols() == 8));
  matrix(8, 7) = 1;
}

TEST_CASE("a negative size is a broken contract") {
  CHECK_THROWS_AS((Matrix<float>(-1, 1)), ContractViolation);
  CHECK_THROWS_AS((Matrix<float>(1, -1)), ContractViolation);
  Matrix<float> matrix(1, 1);
  CHECK_THROWS_AS(matrix.resize(-1, 1), ContractViolation);
}

TEST_CASE("a size beyond the address space is refused, not wrapped") {
  volatile std::size_t size = SIZE_MAX / 4;  // volatile: g++ warns of what this test wants to see
  CHECK_THROWS_AS(AlignedBuffer<double>(size), std::bad_alloc);
}

TEST_CASE("buffers move") {
  AlignedBuffer<int> a(3), b(5);
  a[0] = 1;
  const int* data = a.data();
  AlignedBuffer<int> c = std::move(a);
  CHECK((c.data() == data && c.size() == 3));
  b = std::move(c);
  CHECK((b.data() == data && b[0] == 1));
}

}  // namespace
