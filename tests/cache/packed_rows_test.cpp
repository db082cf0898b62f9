// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/packed_rows.hpp>
#include <bisup/core/random.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <cache/integer_rounding.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

TEST_CASE("packed rows are what attention reads") {
  constexpr int kv_heads = 2, head_dim = 64, tokens = 37, window = 16;
  const auto k = test::normals(tokens + window, kv_heads * head_dim, 1);
  const auto v = test::normals(tokens + window, kv_heads * head_dim, 2);
  const auto q = test::normals(1, kv_heads * head_dim, 3);
  ThreadPool pool(1);
  for (const KvPolicy& policy :
       {KvPolicy{.keys = {.bits = 4}, .values = {.bits = 2}},
        KvPolicy{.keys = {.bits = 3, .group = 32}, .values = {.bits = 8}, .rotate_keys = true},
        KvPolicy{.recent = window,
        .keys = {.bits = 4, .channels = true},
        .values = {.bits = 4},
        .rotate_values = true},
        KvPolicy{.recent = window,
        .keys = {.bits = 2},
        .values = {.bits = 3, .zero = Zero::symmetric},
        .rotate_keys = true,
        .rotate_values = true,
        .fit_scales = true,
        .center_keys = true}}) {
    auto cache = KvCache::allocate(
        {.layers = 1, .kv_heads = kv_heads, .head_dim = head_dim, .capacity = 64}, policy);
    REQUIRE(cache);
    cache->append(0, k.ref(), v.ref());
    Matrix<float> keys(tokens + window + 1, k.cols()), values(tokens + window + 1, k.cols());
    for (int t = 0; t < k.rows(); ++t) {
      std::copy_n(k.row(t).data(), k.cols(), keys.row(t).data());
      std::copy_n(v.row(t).data(), v.cols(), values.row(t).data());
    }
    const int packed = cache->packed_tokens(0);
    REQUIRE(packed >= tokens - 1);
    read_packed(*cache, 0, KvSide::keys, keys.ref().rows(0, packed));
    read_packed(*cache, 0, KvSide::values, values.ref().rows(0, packed));
    CHECK(keys(0, 0) != k(0, 0));
    cache->truncate(packed);
    // A last, exact token asks.
    const auto last = test::normals(1, k.cols(), 4);
    cache->append(0, last.ref(), last.ref());
    const bool rounds_last = policy.recent == 0;
    Matrix<float> out(1, q.cols());
    cache->attend(0, q.ref(), out.ref(), pool);
    if (rounds_last) {
      Matrix<float> rounded(packed + 1, k.cols());
      read_packed(*cache, 0, KvSide::keys, rounded.ref());
      std::copy_n(rounded.row(packed).data(), k.cols(), keys.row(packed).data());
      read_packed(*cache, 0, KvSide::values, rounded.ref());
      std::copy_n(rounded.row(packed).data(), k.cols(), values.row(packed).data());
    } else {
      std::copy_n(last.row(0).data(), k.cols(), keys.row(packed).data());
      std::copy_n(last.row(0).data(), k.cols(), values.row(packed).data());
    }
    for (int head = 0; head < kv_heads; ++head) {
      std::vector<double> weights;
      double sum = 0;
      for (int t = 0; t <= packed; ++t) {
        double score = 0;
        for (int d = head * head_dim; d < (head + 1) * head_dim; ++d)
          score += static_cast<double>(q(0, d)) * static_cast<double>(keys(t, d));
        weights.push_back(std::exp(score / 8));
        sum += weights.back();
      }
      for (int d = head * head_dim; d < (head + 1) * head_dim; ++d) {
        double expected = 0;
        for (int t = 0; t <= packed; ++t)
          expected +=
              weights[static_cast<std::size_t>(t)] / sum * static_cast<double>(values(t, d));
        // Some hundred float operations on values of about 1, the kernels' 2^x within 2^-20.
        CHECK(std::fabs(expected - static_cast<double>(out(0, d))) <
              0x1p-15 + bisup_test::integer_rounding(head_dim, 4, 1.5, 4));
      }
    }
  }
}

}  // namespace
