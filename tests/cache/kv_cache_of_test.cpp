// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_cache_of.hpp>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

using namespace bisup;
using bisup_test::random_matrix;

struct key3 : FormatOf<Format{.bits = 3, .group = 32, .zero = Zero::affine}> {};
struct value8 : FormatOf<Format{.bits = 8, .group = 0, .zero = Zero::affine}> {};
static_assert(CacheFormat<key3> && CacheFormat<value8>);
static_assert(!CacheFormat<int4_g64> && !CacheFormat<int8_channel>);  // symmetric

TEST_CASE("a typed cache is the cache of its formats") {
  const CacheShape shape{.layers = 1, .kv_heads = 2, .head_dim = 64, .capacity = 90};
  auto typed = KvCacheOf<key3, value8>::allocate(shape, {.sinks = 2, .recent = 9, .keys = {2}});
  auto untyped =
      KvCache::allocate(shape, {.sinks = 2, .recent = 9, .keys = {3, 32}, .values = {8}});
  REQUIRE(typed);
  REQUIRE(untyped);
  Random random(1);
  const auto keys = random_matrix(random, 80, 128), values = random_matrix(random, 80, 128);
  const auto queries = random_matrix(random, 80, 256);
  Matrix<float> a(80, 256), b(80, 256);
  typed->append(0, keys.ref(), values.ref()), untyped->append(0, keys.ref(), values.ref());
  typed->attend(0, queries.ref(), a.ref()), untyped->attend(0, queries.ref(), b.ref());
  for (int r = 0; r < 80; ++r) {
    for (int c = 0; c < 256; ++c) REQUIRE(a(r, c) == b(r, c));
  }
  CHECK(typed->size() == 80);
  CHECK(typed->capacity() == 90);
  CHECK(typed->used_bytes() == untyped->used_bytes());
  CHECK(typed->allocated_bytes() == untyped->allocated_bytes());
  CHECK(typed->untyped().policy() == untyped->policy());
  CHECK(typed->room(10));
  CHECK_FALSE(typed->room(11));
  typed->truncate(70);
  CHECK(typed->size() == 70);
  CHECK_FALSE(KvCacheOf<key3>::allocate({}, {}));
}

}  // namespace
