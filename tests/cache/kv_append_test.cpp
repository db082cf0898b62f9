// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_append.hpp>
#include <bisup/cache/kv_layer.hpp>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

// Which panels of 16 tokens each of two passes visits: what threads have to share.
struct Visited {
  int rounded_first, rounded, kept_first, kept;
  friend bool operator==(const Visited&, const Visited&) = default;
};

// One head of one layer; appends chunks of these lengths.
std::vector<Visited> visits(const KvPolicy& policy, const std::vector<int>& chunks) {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 32, .capacity = 256};
  KvPool pool(shape, policy, 0, {});
  KvLayer layer(pool);
  KvStaging staging;
  std::vector<Visited> all;
  for (const int tokens : chunks) {
    const Matrix<float> rows(tokens, 32);
    const KvAppend a = layer.begin(0, rows.ref(), rows.ref(), pool, staging);
    CHECK(a.end - a.first == tokens);
    for (int p = 0; p < a.rounded.count; ++p) layer.round(a, a.rounded.first + p, pool, staging);
    layer.settle(a, pool, staging);
    for (int p = 0; p < a.kept.count; ++p) layer.keep(a, a.kept.first + p, pool);
    all.push_back({a.rounded.first, a.rounded.count, a.kept.first, a.kept.count});
  }
  layer.release(0, pool);
  CHECK(pool.used_bytes() == 0);
  return all;
}

TEST_CASE("an append visits the panels that change, and no others") {
  // Without a window all is rounded at once and nothing stays exact but the sinks.
  CHECK(visits({.keys = {4}, .values = {4}}, {40, 1}) ==
        std::vector<Visited>{{0, 3, 0, 0}, {2, 1, 0, 0}});
  CHECK(visits({.sinks = 4, .keys = {4}, .values = {4}}, {40, 1}) ==
        std::vector<Visited>{{0, 3, 0, 3}, {2, 1, 0, 0}});
  // With a window of 64: 60 tokens stay in it; then one token leaves for each that comes.
  CHECK(visits({.recent = 64, .keys = {4}, .values = {4}}, {60, 4, 1, 1}) ==
        std::vector<Visited>{{0, 0, 0, 4}, {0, 0, 3, 1}, {0, 1, 4, 1}, {0, 1, 4, 1}});
  // A chunk that is longer than the window is staged as a whole, and its last 16 tokens are kept.
  CHECK(visits({.recent = 16, .keys = {4}, .values = {4}}, {96}) ==
        std::vector<Visited>{{0, 6, 5, 1}});
  // Floats are all kept.
  CHECK(visits({}, {40, 1}) == std::vector<Visited>{{0, 0, 0, 3}, {0, 0, 2, 1}});
}

TEST_CASE("a row of an append is a head's part of its token") {
  Matrix<float> keys(3, 64), values(3, 64);
  keys(2, 32) = 5, values(1, 0) = 7;
  const KvAppend a{
      .first = 10, .end = 13, .rows = {std::as_const(keys).ref(), std::as_const(values).ref()}};
  const KvPanel panel{.format = {4}, .head_dim = 32};
  CHECK(a.row(KvSide::keys, 1, panel, 12)[0] == 5);
  CHECK(a.row(KvSide::values, 0, panel, 11)[0] == 7);
}

}  // namespace
