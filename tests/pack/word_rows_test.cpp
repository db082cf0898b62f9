// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/pack/word_rows.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("the largest word keeps sums of products with 8-bit codes in 32 bits") {
  CHECK(WordRows::largest_word(1) == 32767);
  CHECK(WordRows::largest_word(512) == 32767);
  for (const int cols : {513, 4096, 100000}) {
    const long long most = WordRows::largest_word(cols);
    CHECK(most * 128 * cols <= 2147483647);
    CHECK((most + 1) * 128 * cols > 2147483647);
  }
}

TEST_CASE("8-bit codes are words as they are, with a zero behind an odd count") {
  Matrix<std::int8_t> codes(2, 32);
  Matrix<float> scales(2, 1);
  WordRows rows;
  rows.resize(2, 6);  // words that were there before
  for (int t = 0; t < 2; ++t) {
    for (int c = 0; c < 32; ++c) codes(t, c) = static_cast<std::int8_t>(3 * c - 64 + t);
    for (int c = 0; c < 6; ++c) rows.row(t)[c] = 1;
    scales(t, 0) = static_cast<float>(t + 1);
  }
  rows.widen(codes.ref(), scales.ref(), 5);
  const WordsView view = rows.view();
  REQUIRE(view.pairs == 3);
  for (int t = 0; t < 2; ++t) {
    for (int c = 0; c < 6; ++c) REQUIRE(view.row(t)[c] == (c < 5 ? 3 * c - 64 + t : 0));
    CHECK(view.scales[t] == static_cast<float>(t + 1));
  }
  CHECK_THROWS_AS(rows.widen(codes.ref(), scales.ref(), 33), ContractViolation);
}

}  // namespace
