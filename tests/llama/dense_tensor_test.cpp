// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/dense_tensor.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("halves and back: rounded, held at the largest finite half, NaN kept") {
  Matrix<float> values(2, 3);
  values(0, 0) = 1.0f / 3, values(0, 1) = 1e6f, values(0, 2) = -1e6f;
  values(1, 0) = std::numeric_limits<float>::quiet_NaN(), values(1, 1) = -2,
            values(1, 2) = 0x1p-24f;
  const auto halves = llama::as_half(llama::dense_tensor(std::move(values)));
  REQUIRE(halves.view.type == DType::f16);
  const auto back = llama::as_matrix(halves.view);
  CHECK(std::abs(back(0, 0) - 1.0f / 3) <= 0x1p-13f);  // half a unit in the last place at 1/3
  CHECK(back(0, 0) != 1.0f / 3);
  CHECK(back(0, 1) == 65504);
  CHECK(back(0, 2) == -65504);
  CHECK(std::isnan(back(1, 0)));
  CHECK(back(1, 1) == -2);
  CHECK(back(1, 2) == 0x1p-24f);
  CHECK(llama::as_half(halves).view.data == halves.view.data);
}

TEST_CASE("rows are changed part by part on their way to half precision, each once") {
  Matrix<float> values(2500, 3);  // more than two parts
  for (int r = 0; r < 2500; ++r) {
    for (int c = 0; c < 3; ++c) values(r, c) = static_cast<float>(r % 100 + c);
  }
  const auto tensor = llama::dense_tensor(values.clone());
  int rows = 0;
  const auto halves = llama::as_half(tensor, [&](MatrixRef<float> part) {
    rows += part.rows();
    for (int r = 0; r < part.rows(); ++r) {
      for (float& v : part.row(r)) v *= 2;
    }
  });
  CHECK(rows == 2500);
  for (int r = 0; r < 2500; ++r) {
    for (int c = 0; c < 3; ++c) REQUIRE(halves.view(r, c) == 2 * values(r, c));
  }
  CHECK(tensor.view(7, 1) == values(7, 1));
}

TEST_CASE("bf16 reads as floats, and a view outlives the matrix it was made from") {
  const std::vector<BFloat16> bits = {to_bfloat16(1.5f), to_bfloat16(-3)};
  const auto values = llama::as_matrix({bits.data(), DType::bf16, 1, 2});
  CHECK(values(0, 0) == 1.5f);
  CHECK(values(0, 1) == -3);
  llama::DenseTensor kept;
  {
    Matrix<float> m(1, 1);
    m(0, 0) = 7;
    kept = llama::dense_tensor(std::move(m));
  }
  CHECK(kept.view(0, 0) == 7);
}

}  // namespace
