// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/evaluate/cache_error.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

constexpr int heads = 4, kv_heads = 2, head_dim = 32, tokens = 21, queries = 17;

// Attention in double; rounded(j): is token j read as the cache has it by this query?
template <class Rounded>
std::vector<double> output(const CachedAttention& a, int query, int head, Rounded&& rounded) {
  const int kv = head / (heads / kv_heads) * head_dim, own = head * head_dim;
  std::vector<double> out(head_dim);
  double sum = 0;
  for (int j = a.law.first_visible(query); j <= query; ++j) {
    const auto& k = rounded(j) ? a.cached_keys : a.keys;
    const auto& v = rounded(j) ? a.cached_values : a.values;
    double score = 0;
    for (int d = 0; d < head_dim; ++d)
      score += static_cast<double>(a.queries(query - (tokens - queries), own + d)) *
               static_cast<double>(k(j, kv + d));
    const double weight = std::exp(score * static_cast<double>(a.scale));
    sum += weight;
    for (int d = 0; d < head_dim; ++d)
      out[static_cast<std::size_t>(d)] += weight * static_cast<double>(v(j, kv + d));
  }
  for (double& x : out) x /= sum;
  return out;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

TEST_CASE("the error of every token alone, and of all, is what rounding them does") {
  const auto q = test::normals(queries, heads * head_dim, 1);
  const auto k = test::normals(tokens, kv_heads * head_dim, 2);
  const auto v = test::normals(tokens, kv_heads * head_dim, 3);
  auto k_off = test::normals(tokens, kv_heads * head_dim, 4);
  auto v_off = test::normals(tokens, kv_heads * head_dim, 5);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < k.cols(); ++c)
      k_off(t, c) = k(t, c) + 0.3f * k_off(t, c), v_off(t, c) = v(t, c) + 0.3f * v_off(t, c);
  }
  ThreadPool pool(2);
  for (const KvLaw& law : {KvLaw{.exact_below = 2, .recent = 3}, KvLaw{.recent = 0, .window = 6}}) {
    const CachedAttention a{q.ref(),     k.ref(),  v.ref(), k_off.ref(),
                            v_off.ref(), head_dim, 0.2f,    law};
    const CacheError found = cache_error(a, pool);
    std::vector<double> error(tokens), seen(tokens);
    double all = 0, power = 0;
    for (int query = tokens - queries; query < tokens; ++query) {
      for (int head = 0; head < heads; ++head) {
        const auto exact = output(a, query, head, [](int) { return false; });
        power += distance(exact, std::vector<double>(head_dim));
        all += distance(exact, output(a, query, head, [&](int j) { return !law.exact(query, j); }));
        for (int j = 0; j < tokens; ++j) {
          if (!law.visible(query, j)) continue;
          seen[static_cast<std::size_t>(j)] += 1;
          error[static_cast<std::size_t>(j)] += distance(
              exact, output(a, query, head, [&](int i) { return i == j && !law.exact(query, j); }));
        }
      }
    }
    // Float products of 32 numbers: 2^-24 * 32 of scores and outputs of about 1.
    CHECK(found.power == Approx(power).epsilon(1e-5));
    CHECK(found.all == Approx(all).epsilon(1e-5));
    CHECK(found.queries == seen);
    double mass = 0;
    for (const double m : found.mass) mass += m;
    CHECK(mass == Approx(queries * heads).epsilon(1e-5));
    for (std::size_t j = 0; j < error.size(); ++j)
      CHECK(found.error[j] == Approx(error[j]).epsilon(1e-4).margin(1e-6 * power));
  }
}

TEST_CASE("cached rows are rounded whatever the window, and exact where the policy is") {
  const auto k = test::normals(tokens, kv_heads * head_dim, 2);
  const auto v = test::normals(tokens, kv_heads * head_dim, 3);
  const CacheShape shape{.kv_heads = kv_heads, .head_dim = head_dim};
  ThreadPool pool(2);
  const auto rows = cached_rows(
      k.ref(), v.ref(), shape, {.recent = 64, .keys = {.bits = 4}, .exact_type = DType::f32}, pool);
  REQUIRE(rows);
  const auto same = cached_rows(k.ref(), v.ref(), shape, {.keys = {.bits = 4}}, pool);
  REQUIRE(same);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < k.cols(); ++c) {
      // Affine, 15 steps across a range of at most 2 * 4.5; f16 scales.
      CHECK(std::fabs(rows->keys(t, c) - k(t, c)) < 9.0f / 15);
      CHECK(rows->keys(t, c) == same->keys(t, c));
      CHECK(rows->values(t, c) == v(t, c));
    }
    CHECK(rows->keys(t, 0) != k(t, 0));
  }
}

}  // namespace
