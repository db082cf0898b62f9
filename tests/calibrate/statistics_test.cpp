// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/statistics.hpp>
#include <bisup/core/random.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> inputs(int tokens, int channels, std::uint64_t seed) {
  Random random(seed);
  Matrix<float> x(tokens, channels);
  for (int t = 0; t < tokens; ++t) {
    for (float& v : x.row(t)) v = static_cast<float>(random.normal());
    x(t, channels / 2) = 0;  // one that nothing ever reaches
    x(t, 1) *= 100;
  }
  return x;
}

TEST_CASE("channel statistics are the sums they are called") {
  const auto x = inputs(300, 7, 1);
  ChannelStatistics statistics(7);
  statistics.add(x.ref().rows(0, 120)), statistics.add(x.ref().rows(120, 180));
  CHECK(statistics.tokens == 300);
  for (std::size_t c = 0; c < 7; ++c) {
    double squares = 0, sum = 0, largest = 0;
    for (int t = 0; t < 300; ++t) {
      const auto v = static_cast<double>(x(t, static_cast<int>(c)));
      squares += v * v, sum += v, largest = std::max(largest, std::fabs(v));
    }
    CHECK(statistics.squares[c] == squares);
    CHECK(statistics.sums[c] == sum);
    CHECK(statistics.largest[c] == static_cast<float>(largest));
    CHECK(statistics.power()[c] == static_cast<float>(squares / 300));
  }
  CHECK(ChannelStatistics(3).power() == std::vector<float>(3));
}

TEST_CASE("channel statistics of two parts are merged into those of the whole") {
  const auto x = inputs(500, 6, 2);
  for (const int cut : {0, 1, 250, 499, 500}) {
    ChannelStatistics whole(6), left(6), right(6);
    whole.add(x.ref()), left.add(x.ref().rows(0, cut)), right.add(x.ref().rows(cut, 500 - cut));
    left.merge(right);
    CHECK(left.tokens == whole.tokens);
    CHECK(left.largest == whole.largest);
    for (std::size_t c = 0; c < 6; ++c) {
      // 500 sums in double, in another order; none is larger than the sum of magnitudes.
      const double bound = 500 * 0x1p-53;
      CHECK(std::fabs(left.squares[c] - whole.squares[c]) <= bound * whole.squares[c]);
      CHECK(std::fabs(left.sums[c] - whole.sums[c]) <=
            bound * 500 * static_cast<double>(whole.largest[c]));
    }
  }
}

TEST_CASE("second moments are those of a double sum, symmetric, and 0 where no input ever was") {
  ThreadPool pool(2);
  const int tokens = 2300, n = 19;  // more than a chunk
  const auto x = inputs(tokens, n, 3);
  SecondMoments moments(n);
  moments.add(x.ref(), pool);
  CHECK(moments.tokens() == tokens);
  const auto h = moments.mean();
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int t = 0; t < tokens; ++t) {
        const double product = static_cast<double>(x(t, i)) * static_cast<double>(x(t, j));
        sum += product, magnitude += std::fabs(product);
      }
      // Float sums of at most 2048 products; each sum rounds once, and the mean once more.
      CHECK(std::fabs(static_cast<double>(h(i, j)) - sum / tokens) <=
            (2048 + 2) * 0x1p-24 * magnitude / tokens);
      CHECK(h(i, j) == h(j, i));
    }
  }
  CHECK(h(n / 2, n / 2) == 0);
}

TEST_CASE("second moments of two parts are merged into those of the whole") {
  ThreadPool pool(2);
  const int tokens = 2048 + 500, n = 12;
  const auto x = inputs(tokens, n, 4);
  SecondMoments whole(n);
  whole.add(x.ref(), pool);
  const auto expected = whole.mean();
  for (const int cut : {1, 777, 2048}) {
    SecondMoments left(n), right(n);
    left.add(x.ref().rows(0, cut), pool), right.add(x.ref().rows(cut, tokens - cut), pool);
    left.merge(right);
    CHECK(left.tokens() == tokens);
    const auto h = left.mean();
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        // Parts that end where a chunk does add the same floats in the same order. Others sum at
        // most 2048 products a chunk in another order: 2048 roundings on either side, of what the
        // inequality of Cauchy bounds.
        const double bound = cut == 2048 ? 0
                                         : 2 * (2048 + 2) * 0x1p-24 *
                                               std::sqrt(static_cast<double>(expected(i, i)) *
                                                         static_cast<double>(expected(j, j)));
        CHECK(std::fabs(static_cast<double>(h(i, j)) - static_cast<double>(expected(i, j))) <=
              bound);
      }
    }
  }
}

}  // namespace
