// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_batch.hpp>
#include <vector>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

using namespace bisup;

TEST_CASE("a batch appends and attends as each of its sequences would alone") {
  const CacheShape shape{.layers = 1, .kv_heads = 2, .head_dim = 32, .capacity = 80};
  const KvPolicy policy{.sinks = 2, .recent = 9, .keys = {4}, .values = {3}, .rotate_keys = true};
  ThreadPool pool(3);
  std::vector<KvCache> batched, alone;
  for (auto* caches : {&batched, &alone}) {
    for (int i = 0; i < 3; ++i) caches->push_back(KvCache::allocate(shape, policy).value());
  }
  Random random(3);
  for (const std::vector<int>& counts : {std::vector{30, 1, 7}, {1, 1, 1}, {2, 40, 0}, {0, 0, 5}}) {
    const int rows = counts[0] + counts[1] + counts[2];
    const auto keys = bisup_test::random_matrix(random, rows, 64),
               values = bisup_test::random_matrix(random, rows, 64),
               queries = bisup_test::random_matrix(random, rows, 128);
    Matrix<float> out(rows, 128), expected(rows, 128);
    std::vector<KvBatch::Part> parts;
    int row = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      parts.push_back({&batched[i], counts[i]});
      alone[i].append(0, keys.ref().rows(row, counts[i]), values.ref().rows(row, counts[i]), pool);
      alone[i].attend(0, queries.ref().rows(row, counts[i]), expected.ref().rows(row, counts[i]),
                      pool);
      row += counts[i];
    }
    KvBatch batch(parts);
    batch.append(0, keys.ref(), values.ref(), pool);
    batch.attend(0, queries.ref(), out.ref(), pool);
    for (int t = 0; t < rows; ++t) {
      for (int c = 0; c < 128; ++c) REQUIRE(out(t, c) == expected(t, c));
    }
    for (std::size_t i = 0; i < 3; ++i) CHECK(batched[i].size() == alone[i].size());
  }
}

TEST_CASE("rows that are no sequence's are a broken contract") {
  auto cache =
      KvCache::allocate({.layers = 1, .kv_heads = 1, .head_dim = 32, .capacity = 8}, {}).value();
  const std::vector<KvBatch::Part> parts = {{&cache, 2}};
  KvBatch batch(parts);
  const Matrix<float> rows(3, 32);
  ThreadPool pool(1);
  CHECK_THROWS_AS(batch.append(0, rows.ref(), rows.ref(), pool), ContractViolation);
  CHECK(cache.size() == 0);
}

}  // namespace
