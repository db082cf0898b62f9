// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_cache.hpp>
#include <bisup/cache/rounded_prompt.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "plain_cache.hpp"
#include "integer_rounding.hpp"

namespace {

using namespace bisup;

constexpr int prompt_tokens = 5, tokens = 9, kv_heads = 2, heads = 4, head_dim = 64;

struct Rows {
  Matrix<float> keys, values;
};
Rows random_rows(Random& random, int count) {
  return {bisup_test::random_matrix(random, count, kv_heads * head_dim),
          bisup_test::random_matrix(random, count, kv_heads * head_dim)};
}

Matrix<float> attended(KvCache& cache, const Rows& rows, const Matrix<float>& queries) {
  Matrix<float> out(tokens, heads * head_dim);
  cache.append(0, rows.keys.ref(), rows.values.ref());
  cache.attend(0, queries.ref(), out.ref());
  return out;
}

double largest_difference(const Matrix<float>& a, const Matrix<float>& b) {
  double largest = 0;
  for (int t = 0; t < a.rows(); ++t) {
    for (int i = 0; i < a.cols(); ++i)
      largest =
          std::max(largest, std::fabs(static_cast<double>(a(t, i)) - static_cast<double>(b(t, i))));
  }
  return largest;
}

TEST_CASE("a rounded prompt is read as a cache reads tokens that it has rounded") {
  const CacheShape shape{
      .layers = 1, .kv_heads = kv_heads, .head_dim = head_dim, .capacity = prompt_tokens + tokens};
  std::vector<int> ids;
  for (int t = 0; t < prompt_tokens; ++t) ids.push_back(t);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool rotate : {false, true}) {
      for (const bool fit : {false, true}) {
        Random random(static_cast<std::uint64_t>(bits));
        const Rows before = random_rows(random, prompt_tokens), rows = random_rows(random, tokens);
        const auto queries = bisup_test::random_matrix(random, tokens, heads * head_dim);
        const KvPolicy policy{.keys = {.bits = bits, .group = 32},
                              .values = {.bits = bits},
                              .rotate_keys = rotate,
                              .rotate_values = rotate,
                              .key_clip = {0.9f, 0.8f},
                              .value_clip = {0.95f, 0.95f},
                              .fit_scales = fit,
                              .exact_type = DType::f32};
        auto plain = KvCache::allocate(shape, policy).value();
        plain.append(0, before.keys.ref(), before.values.ref());
        const auto expected = attended(plain, rows, queries);
        PromptCache prompt(ids, 1, kv_heads, head_dim, DType::f32);
        prompt.set(0, before.keys.ref(), before.values.ref());
        auto exact = KvCache::allocate(shape, policy, prompt).value();
        auto rounded =
            KvCache::allocate(shape, policy, rounded_prompt(prompt, policy, bits)).value();
        INFO(bits << " bits, rotated " << rotate << ", fitted " << fit);
        // Turned back and turned again in floats: 12 additions of numbers below 32, half an ulp
        // each. A score may then be off by 8 times that (a query is as long as 8 of its numbers).
        CHECK(largest_difference(attended(rounded, rows, queries), expected) <
              12 * 32 * 0x1p-24 * 8 + bisup_test::integer_rounding(head_dim, 6, 1.5, 6));
        CHECK(largest_difference(attended(exact, rows, queries), expected) > 0.25 / (1 << bits));
      }
    }
  }
}

TEST_CASE("16 bits, and no prompt, stay as they are") {
  PromptCache prompt({1, 2}, 1, 1, 32);
  Matrix<float> rows(2, 32);
  rows(1, 3) = 0.7f;
  prompt.set(0, rows.ref(), rows.ref());
  CHECK(rounded_prompt(prompt, {}, 16).keys(0)(1, 3) == prompt.keys(0)(1, 3));
  CHECK(rounded_prompt({}, {}, 4).empty());
  CHECK_THROWS_AS(rounded_prompt(prompt, {}, 5), ContractViolation);
}

TEST_CASE("each layer and head is rounded with its own clip") {
  PromptCache prompt({1}, 2, 2, 32, DType::f32);
  Matrix<float> rows(1, 64);
  for (int i = 0; i < 64; ++i) rows(0, i) = static_cast<float>(i % 32);
  for (const int layer : {0, 1}) prompt.set(layer, rows.ref(), rows.ref());
  KvPolicy policy;
  for (const float clip : {1.0f, 0.5f, 0.25f, 0.75f})
    policy.table.push_back({.key_clip = {clip, 1}, .value_clip = {1, 1}});
  const auto rounded = rounded_prompt(prompt, policy, 8);
  // A clip of c cuts what is above 31 c off; a step of 8 bits is below 1/8.
  for (const int layer : {0, 1}) {
    for (const int head : {0, 1}) {
      const float clip = policy.entry(layer, head, 2).key_clip.high;
      CHECK(std::fabs(rounded.keys(layer)(0, head * 32 + 31) - 31 * clip) < 0.125f);
      CHECK(std::fabs(rounded.values(layer)(0, head * 32 + 31) - 31) < 0.125f);
    }
  }
}

}  // namespace
