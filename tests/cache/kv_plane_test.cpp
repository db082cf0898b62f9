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

constexpr CacheShape shape{.layers = 3, .kv_heads = 2, .head_dim = 64, .capacity = 200};

void fill(KvCache& cache, int tokens) {
  Random random(1);
  const auto rows = random_matrix(random, tokens, 128);
  for (int layer = 0; layer < 3; ++layer) cache.append(layer, rows.ref(), rows.ref());
}

TEST_CASE("allocated bytes are the allocator's, staging included") {
  for (const KvPolicy& policy :
       {KvPolicy{}, KvPolicy{.keys = {4}, .values = {4}},
        KvPolicy{.sinks = 4, .recent = 30, .keys = {3}, .values = {2, 32}, .rotate_keys = true, .rotate_values = true},
        KvPolicy{.sinks = 300, .recent = 300, .keys = {8}, .values = {16}}}) {
    const std::size_t before = aligned_bytes;
    auto cache = KvCache::allocate(shape, policy);
    REQUIRE(cache);
    CHECK(cache->allocated_bytes() == aligned_bytes - before);
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

TEST_CASE("used bytes are those of the tokens, segment by segment") {
  const KvPolicy policy{.sinks = 4, .recent = 30, .keys = {3}, .values = {2, 32}};
  auto cache = KvCache::allocate(shape, policy);
  REQUIRE(cache);
  CHECK(cache->used_bytes() == 0);
  fill(*cache, 10);
  CHECK(cache->used_bytes() == 3u * 2 * 2 * 10 * 64 * 4);  // all exact
  fill(*cache, 90);
  // 4 sinks and 30 recent tokens in floats; 66 tokens of 3 bits and one scale (2 bytes) and zero
  // point, and of 2 bits and two of them.
  CHECK(cache->used_bytes() == 3u * 2 * (2 * 34 * 64 * 4 + 66 * (24 + 3) + 66 * (16 + 6)));
  cache->truncate(50);  // what was packed stays packed
  CHECK(cache->used_bytes() == 3u * 2 * (2 * 4 * 64 * 4 + 46 * (24 + 3) + 46 * (16 + 6)));
  cache->truncate(0);
  CHECK(cache->used_bytes() == 0);
}

}  // namespace
