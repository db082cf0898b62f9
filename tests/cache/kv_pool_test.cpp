// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How many bytes does a cache take? What it says is compared with what the allocator was asked for.
#include <atomic>
#include <bisup/cache/kv_cache.hpp>
#include <cstdlib>
#include <new>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

// Aligned buffers are all that caches keep their tokens in.
std::atomic<std::size_t> aligned_bytes = 0;

}  // namespace

void* operator new(std::size_t size, std::align_val_t alignment) {
  const std::size_t header = static_cast<std::size_t>(alignment);
  char* block = static_cast<char*>(std::aligned_alloc(header, size + header));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block) = size;
  aligned_bytes += size;
  return block + header;
}
void operator delete(void* at, std::align_val_t alignment) noexcept {
  if (at == nullptr) return;
  char* block = static_cast<char*>(at) - static_cast<std::size_t>(alignment);
  aligned_bytes -= *reinterpret_cast<std::size_t*>(block);
  std::free(block);
}

namespace {

using namespace bisup;
using bisup_test::random_matrix;

constexpr CacheShape pool_shape{.layers = 3, .kv_heads = 2, .head_dim = 64, .capacity = 200};

void fill(KvCache& cache, int tokens) {
  Random random(1);
  const auto rows = random_matrix(random, tokens, 128);
  for (int layer = 0; layer < 3; ++layer) cache.append(layer, rows.ref(), rows.ref());
}

TEST_CASE("allocated bytes are the allocator's, staging included") {
  (void)ThreadPool::shared();  // appending makes it, and it is not the cache's
  for (const KvPolicy& policy :
       {KvPolicy{}, KvPolicy{.keys = {4}, .values = {4}},
        KvPolicy{.sinks = 4,
        .recent = 30,
        .keys = {3},
        .values = {2, 32},
        .rotate_keys = true,
        .rotate_values = true,
        .center_keys = true},
        KvPolicy{.sinks = 300, .recent = 300, .keys = {8}, .values = {16}}}) {
    const std::size_t before = aligned_bytes;
    auto cache = KvCache::allocate(pool_shape, policy);
    REQUIRE(cache);
    CHECK(cache->allocated_bytes() == aligned_bytes - before);
    CHECK(cache->allocated_bytes() == KvPool::bytes_for(pool_shape, policy, 0));
    const std::size_t empty = cache->allocated_bytes();
    Random random(2);
    const auto rows = random_matrix(random, 150, 128);
    const std::size_t rows_bytes = 150 * 128 * 4;
    for (int layer = 0; layer < 3; ++layer) cache->append(layer, rows.ref(), rows.ref());
    CHECK(cache->allocated_bytes() == aligned_bytes - before - rows_bytes);
    CHECK((cache->allocated_bytes() > empty) == (policy.recent == 30));
    CHECK(cache->used_bytes() <= cache->allocated_bytes());
  }
}

TEST_CASE("exact pages of f16 take half of those of f32") {
  const KvPolicy half{.sinks = 4, .recent = 64, .keys = {4}, .values = {4}};
  KvPolicy whole = half;
  whole.exact_type = DType::f32;
  const KvPool a(pool_shape, half, 0, {}), b(pool_shape, whole, 0, {});
  CHECK(a.layer(0).exact.page_bytes() * 2 == b.layer(0).exact.page_bytes());
  CHECK(a.layer(0).exact.page_bytes() == 2u * 2 * 16 * 64 * 2);
  CHECK(a.layer(0).stored.page_bytes() == b.layer(0).stored.page_bytes());
}

TEST_CASE("32 sequences that share a prompt of 512 tokens cost one prompt") {
  const CacheShape many{.layers = 3, .kv_heads = 2, .head_dim = 64, .capacity = 1024};
  Random random(4);
  const auto rows = random_matrix(random, 512, 128);
  PromptCache stored(std::vector<int>(512, 1), 3, 2, 64);
  for (int layer = 0; layer < 3; ++layer) stored.set(layer, rows.ref(), rows.ref());
  for (const bool exact : {false, true}) {
    const KvPolicy policy{.sinks = 4, .recent = 30, .keys = {4}, .values = {4}};
    auto root = KvCache::allocate(many, policy, exact ? stored : PromptCache(),
                                  {.sequences = 33, .tokens = 512 + 33 * 64});
    REQUIRE(root);
    for (int layer = 0; layer < 3 && !exact; ++layer) root->append(layer, rows.ref(), rows.ref());
    const std::size_t one = root->pool().used_bytes();
    std::vector<KvCache> forks;
    for (int i = 0; i < 32; ++i) forks.push_back(root->fork().value());
    CHECK(root->pool().used_bytes() == one);
    CHECK_FALSE(root->fork());
    // One token each: a copy of the page it goes into, and of the page that leaves the window into
    // the packed ones; nothing of the prompt.
    for (KvCache& fork : forks) {
      for (int layer = 0; layer < 3; ++layer)
        fork.append(layer, rows.ref().rows(0, 1), rows.ref().rows(0, 1));
    }
    const KvLayerPages& pages = root->pool().layer(0);
    CHECK(root->pool().used_bytes() - one <=
          32u * 3 * (pages.exact.page_bytes() + pages.stored.page_bytes()));
    forks.clear();
    CHECK(root->pool().used_bytes() == one);
    CHECK(root->pool().allocated_bytes() > one);  // there is room for more
    CHECK(root->fork());
  }
}

TEST_CASE("a pool that is used up says so before anything is appended") {
  const CacheShape small{.layers = 2, .kv_heads = 1, .head_dim = 32, .capacity = 400};
  auto a =
      KvCache::allocate(small, {.keys = {4}, .values = {4}}, {}, {.sequences = 2, .tokens = 96});
  REQUIRE(a);
  auto b = a->fork();
  REQUIRE(b);
  Random random(5);
  const auto rows = random_matrix(random, 200, 32);
  const auto append = [&](KvCache& cache, int tokens) {
    for (int layer = 0; layer < 2; ++layer)
      cache.append(layer, rows.ref().rows(0, tokens), rows.ref().rows(0, tokens));
  };
  REQUIRE(a->room(128));  // 96 tokens and one page begun by each sequence
  REQUIRE_FALSE(a->room(129));
  CHECK(a->room(129).error().code == Errc::cache_full);
  append(*a, 100);
  CHECK(b->room(16));
  CHECK_FALSE(b->room(17));
  a->truncate(10);
  CHECK(b->room(112));
  CHECK_FALSE(b->room(113));
  append(*b, 112);
  // What they share is written by neither: going on takes a copy.
  a->truncate(0);
  auto c = KvCache(std::move(*a));
  CHECK(c.room(16));
}

TEST_CASE("used bytes are those of the tokens, segment by segment") {
  for (const DType type : {DType::f16, DType::f32}) {
    const KvPolicy policy{
        .sinks = 4, .recent = 30, .keys = {3}, .values = {2, 32}, .exact_type = type};
    auto cache = KvCache::allocate(pool_shape, policy);
    REQUIRE(cache);
    CHECK(cache->used_bytes() == 0);
    const std::size_t each = 64u * static_cast<std::size_t>(bytes_of(type));
    fill(*cache, 10);
    CHECK(cache->used_bytes() == 3u * 2 * 2 * 10 * each);  // all exact
    fill(*cache, 90);
    // 4 sinks and 30 recent tokens; 66 tokens of 3 bits and one scale (2 bytes) and zero point, and
    // of 2 bits and two of them.
    CHECK(cache->used_bytes() == 3u * 2 * (2 * 34 * each + 66 * (24 + 3) + 66 * (16 + 6)));
    cache->truncate(50);  // what was packed stays packed
    CHECK(cache->used_bytes() == 3u * 2 * (2 * 4 * each + 46 * (24 + 3) + 46 * (16 + 6)));
    cache->truncate(0);
    CHECK(cache->used_bytes() == 0);
  }
}

}  // namespace
