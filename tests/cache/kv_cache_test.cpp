// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/random.hpp>
#include <vector>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

using namespace bisup;
using bisup_test::PlainCache;
using bisup_test::random_matrix;

struct Sequence {
  Matrix<float> keys, values, queries;
  Sequence(const CacheShape& shape, int heads, int tokens, int seed = 1) {
    Random random(static_cast<std::uint64_t>(seed));
    keys = random_matrix(random, tokens, shape.kv_heads * shape.head_dim);
    values = random_matrix(random, tokens, shape.kv_heads * shape.head_dim);
    queries = random_matrix(random, tokens, heads * shape.head_dim);
  }
  // Appends tokens first ... first + count - 1 to a layer and attends from them.
  void run(KvCache& cache, int layer, int first, int count, MatrixRef<float> out,
           ThreadPool& pool) const {
    cache.append(layer, keys.ref().rows(first, count), values.ref().rows(first, count));
    cache.attend(layer, queries.ref().rows(first, count), out.rows(first, count), pool);
  }
};

bool identical(const Matrix<float>& a, const Matrix<float>& b) {
  for (int r = 0; r < a.rows(); ++r) {
    for (int c = 0; c < a.cols(); ++c) {
      if (!(a(r, c) == b(r, c))) return false;
    }
  }
  return true;
}

KvCache allocate(const CacheShape& shape, const KvPolicy& policy, const PromptCache& prompt = {}) {
  auto cache = KvCache::allocate(shape, policy, prompt);
  REQUIRE(cache);
  return std::move(cache).value();
}

// Another format for each of two layers and two heads, exact ones between them.
KvPolicy mixed() {
  return {.sinks = 2,
          .recent = 12,
          .rotate_values = true,
          .table = {{.keys = {4}, .values = {16}},
                    {.keys = {2, 32}, .values = {8}, .key_clip = {0.9f, 1}},
                    {.keys = {16}, .values = {16}},
                    {.keys = {16}, .values = {3}}}};
}

std::vector<KvPolicy> policies() {
  return {{},
          {.keys = {4}, .values = {4}},
          {.sinks = 4, .keys = {8}, .values = {8}},
          {.recent = 1, .keys = {3}, .values = {3}},
          {.sinks = 4,
           .recent = 64,
           .keys = {4},
           .values = {2},
           .rotate_keys = true,
           .rotate_values = true},
          {.sinks = 17,
           .recent = 30,
           .keys = {2, 32},
           .values = {3, 32},
           .rotate_keys = true,
           .key_clip = {0.9f, 0.8f},
           .value_clip = {0.7f, 1}},
          {.sinks = 3,
           .recent = 20,
           .keys = {2},
           .values = {3, 0, Zero::symmetric},
           .rotate_keys = true,
           .fit_scales = true,
           .center_keys = true},
          {.sinks = 5,
           .recent = 16,
           .keys = {.bits = 4, .channels = true},
           .values = {8, 0, Zero::symmetric}},
          {.recent = 70,
           .keys = {.bits = 2, .zero = Zero::symmetric, .channels = true},
           .values = {2},
           .value_clip = {0.9f, 0.9f},
           .fit_scales = true,
           .center_keys = true},
          mixed(),
          {.recent = 20, .keys = {16}, .values = {4}},
          {.sinks = 4, .recent = 20, .keys = {3}, .values = {3}, .exact_type = DType::f32},
          {.sinks = 4, .recent = 40, .keys = {3}, .values = {3}, .exact_type = DType::bf16},
          {.sinks = 3, .recent = 7, .keys = {3}, .values = {16}}};
}

TEST_CASE("a prefill in chunks equals appending token by token, for any number of threads") {
  ThreadPool one(1), three(3);
  const int tokens = 333, heads = 6;  // more than one split of 256 keys
  for (const int window : {0, 100}) {
    for (const KvPolicy& policy : policies()) {
      const CacheShape shape{
          .layers = 2, .kv_heads = 2, .head_dim = 64, .capacity = tokens, .window = window};
      const Sequence s(shape, heads, tokens);
      KvCache all = allocate(shape, policy), single = allocate(shape, policy),
              chunked = allocate(shape, policy);
      Matrix<float> a(tokens, heads * 64), b(tokens, heads * 64), c(tokens, heads * 64),
          other(tokens, heads * 64);
      s.run(all, 0, 0, tokens, a.ref(), one), s.run(all, 1, 0, tokens, other.ref(), one);
      for (int t = 0; t < tokens; ++t)
        s.run(single, 0, t, 1, b.ref(), three), s.run(single, 1, t, 1, other.ref(), three);
      Random random(3);
      for (int t = 0; t < tokens;) {
        const int count = std::min(static_cast<int>(1 + random.below(60)), tokens - t);
        s.run(chunked, 0, t, count, c.ref(), three),
            s.run(chunked, 1, t, count, other.ref(), three);
        t += count;
      }
      CHECK(identical(a, b));
      CHECK(identical(a, c));
    }
  }
}

TEST_CASE("a window as long as the sequence equals the float cache to the bit") {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 32, .capacity = 300};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const Sequence s(shape, 3, 300);
    Sequence rounded(shape, 3, 300);  // what such a cache keeps exact
    for (int t = 0; t < 300; ++t) {
      round_exact(type, rounded.keys.row(t)), round_exact(type, rounded.values.row(t));
    }
    Matrix<float> expected(300, 96), got(300, 96);
    KvCache exact = allocate(shape, {});
    rounded.run(exact, 0, 0, 300, expected.ref(), ThreadPool::shared());
    for (const int recent : {300, 1000000000}) {
      CAPTURE(name(type), recent);
      KvCache cache = allocate(shape, {.sinks = recent == 300 ? 0 : 5,
                                       .recent = recent,
                                       .keys = {2},
                                       .values = {2},
                                       .exact_type = type});
      for (int t = 0; t < 300; t += 100) s.run(cache, 0, t, 100, got.ref(), ThreadPool::shared());
      CHECK(identical(expected, got));
      CHECK(cache.used_bytes() * 4 ==
            exact.used_bytes() * static_cast<std::size_t>(bytes_of(type)));
    }
  }
}

TEST_CASE("without a window codes are made of what is appended, whatever sinks lie in") {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 32, .capacity = 90};
  const Sequence s(shape, 2, 90);
  Matrix<float> a(90, 64), b(90, 64);
  const KvPolicy policy{.keys = {4}, .values = {3}};
  KvPolicy floats = policy;
  floats.exact_type = DType::f32;
  KvCache one = allocate(shape, policy), other = allocate(shape, floats);
  s.run(one, 0, 0, 90, a.ref(), ThreadPool::shared());
  s.run(other, 0, 0, 90, b.ref(), ThreadPool::shared());
  CHECK(identical(a, b));
}

TEST_CASE("attention equals the law's, computed in double from explicitly rounded rows") {
  for (const int head_dim : {64, 32, 128}) {
    for (const KvPolicy& policy : policies()) {
      const CacheShape shape{.layers = 2, .kv_heads = 2, .head_dim = head_dim, .capacity = 150};
      const Sequence s(shape, 6, 150);
      KvCache cache = allocate(shape, policy);
      PlainCache plain(shape, policy), deeper(shape, policy, 0, 1);
      Matrix<float> out(150, 6 * head_dim);
      for (const int layer : {0, 1}) {
        PlainCache& oracle = layer == 0 ? plain : deeper;
        s.run(cache, layer, 0, 150, out.ref(), ThreadPool::shared());
        oracle.append(s.keys.ref(), s.values.ref());
        for (const int row : {0, 1, 16, 63, 64, 100, 149})
          CHECK(oracle.worst_error(s.queries.ref(), out.ref(), row) < 1);
      }
    }
  }
}

TEST_CASE("odd head dimensions are padded, not read") {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 20, .capacity = 40};
  const KvPolicy policy{.recent = 3, .keys = {3}, .values = {4}};
  const Sequence s(shape, 2, 40);
  KvCache cache = allocate(shape, policy);
  PlainCache plain(shape, policy);
  Matrix<float> out(40, 40);
  s.run(cache, 0, 0, 40, out.ref(), ThreadPool::shared());
  plain.append(s.keys.ref(), s.values.ref());
  for (int row = 0; row < 40; ++row) CHECK(plain.worst_error(s.queries.ref(), out.ref(), row) < 1);
}

TEST_CASE("random appends and truncations follow the plain cache") {
  Random random(11);
  for (const KvPolicy& policy : policies()) {
    const CacheShape shape{.layers = 2, .kv_heads = 2, .head_dim = 32, .capacity = 200};
    KvCache cache = allocate(shape, policy);
    PlainCache plain(shape, policy, 0, 1);  // of the second layer, whose output is the last
    for (int step = 0; step < 60; ++step) {
      const int free = shape.capacity - cache.size();
      if (free == 0 || random.below(4) == 0) {
        const int kept =
            static_cast<int>(random.below(static_cast<std::uint32_t>(cache.size() + 1)));
        cache.truncate(kept), plain.truncate(kept);
        REQUIRE(cache.size() == kept);
        continue;
      }
      const int count =
          std::min(free, random.below(3) == 0 ? 1 : static_cast<int>(1 + random.below(50)));
      const Sequence s(shape, 4, count, step);
      Matrix<float> out(count, 4 * 32);
      for (const int layer : {0, 1}) s.run(cache, layer, 0, count, out.ref(), ThreadPool::shared());
      plain.append(s.keys.ref(), s.values.ref());
      REQUIRE(cache.size() == plain.size());
      REQUIRE(plain.worst_error(s.queries.ref(), out.ref(), 0) < 1);
      REQUIRE(plain.worst_error(s.queries.ref(), out.ref(), count - 1) < 1);
    }
  }
}

// Codes, scales and zero points of the packed tokens of one head, as load_code sees them.
template <int Bits>
std::vector<int> packed_tokens(const KvCache& cache, int tokens) {
  const Matrix<float> query(1, cache.shape().head_dim * cache.shape().kv_heads);
  Matrix<float> out(1, query.cols());
  const AttendRequest request = cache.request(0, query.ref(), out.ref());
  std::vector<int> all;
  for (const KvHeadView& head : request.heads) {
    for (int t = 0; t < tokens; ++t) {
      const int p = t / kv_panel, lane = t % kv_panel;
      const KvPanel& panel = head.keys.panel;
      for (int d = 0; d < panel.dim(); ++d) {
        const std::uint8_t* tile = head.keys.codes(p) + d / 32 * tile_bytes<panel16, Bits>;
        all.push_back(load_code<Bits, panel16>(tile, lane, d % 32));
      }
      for (int byte = 0; byte < panel.token_bytes(); ++byte)
        all.push_back(head.values.codes(p)[lane * panel.token_bytes() + byte]);
      for (const KvPlaneView* plane : {&head.keys, &head.values})
        all.push_back(plane->scales(p)[lane].bits), all.push_back(plane->zeros(p)[lane]);
    }
  }
  return all;
}

TEST_CASE("sequences that are appended to together hold what each alone would hold") {
  // With the pages of one pool, more threads than cores, and chunks of every length.
  for (const KvPolicy& policy : policies()) {
    const CacheShape shape{.layers = 2, .kv_heads = 2, .head_dim = 32, .capacity = 120};
    constexpr int sequences = 7;
    ThreadPool one(1), four(4);
    auto root = KvCache::allocate(shape, policy, {}, {.sequences = sequences});
    REQUIRE(root);
    std::vector<KvCache> together, alone;
    together.push_back(std::move(root).value());
    while (together.size() < sequences) together.push_back(together[0].fork().value());
    for (int i = 0; i < sequences; ++i) alone.push_back(allocate(shape, policy));
    Random random(11);
    for (int step = 0; step < 12; ++step) {
      std::vector<Sequence> chunks;
      std::vector<int> counts;
      for (int i = 0; i < sequences; ++i) {
        const int free = shape.capacity - alone[static_cast<std::size_t>(i)].size();
        const int count = step % 3 == 0 ? 1 : static_cast<int>(random.below(40));
        counts.push_back(std::min(count, free));
        chunks.emplace_back(shape, 4, std::max(counts.back(), 1), 100 * step + i);
      }
      for (const int layer : {0, 1}) {
        std::vector<KvCache::Append> appends;
        for (std::size_t i = 0; i < sequences; ++i) {
          const auto &keys = std::as_const(chunks[i].keys), &values = std::as_const(chunks[i].values);
          appends.push_back({&together[i], keys.ref().rows(0, counts[i]), values.ref().rows(0, counts[i])});
        }
        KvCache::append(layer, appends, four);
        for (std::size_t i = 0; i < sequences; ++i) {
          if (counts[i] == 0) continue;
          Matrix<float> expected(counts[i], 4 * 32), out(counts[i], 4 * 32);
          chunks[i].run(alone[i], layer, 0, counts[i], expected.ref(), one);
          together[i].attend(layer, std::as_const(chunks[i].queries).ref().rows(0, counts[i]), out.ref(), one);
          REQUIRE(identical(out, expected));
        }
      }
      for (std::size_t i = 0; i < sequences; ++i) REQUIRE(together[i].size() == alone[i].size());
    }
  }
}

TEST_CASE("appending never changes a packed token") {
  const CacheShape shape{.layers = 1, .kv_heads = 2, .head_dim = 32, .capacity = 100};
  KvCache cache = allocate(shape, {.recent = 9, .keys = {3}, .values = {3}});
  const Sequence s(shape, 2, 100);
  Matrix<float> out(100, 64);
  std::vector<int> before;
  for (int t = 0; t < 100; t += 10) {
    s.run(cache, 0, t, 10, out.ref(), ThreadPool::shared());
    const int were_packed = std::max(t - 9, 0);
    CHECK(packed_tokens<3>(cache, were_packed) == before);
    before = packed_tokens<3>(cache, t + 10 - 9);
  }
  CHECK(before.size() == 2u * 91 * (32 + 12 + 4));
}

TEST_CASE("query head h reads KV head h div group") {
  const CacheShape shape{.layers = 1, .kv_heads = 2, .head_dim = 16, .capacity = 4};
  KvCache cache = allocate(shape, {});
  Matrix<float> keys(1, 32), values(1, 32), queries(1, 6 * 16), out(1, 6 * 16);
  for (int i = 0; i < 32; ++i) values(0, i) = i < 16 ? 1.0f : 2.0f;
  cache.append(0, keys.ref(), values.ref());
  cache.attend(0, queries.ref(), out.ref());
  for (int head = 0; head < 6; ++head) CHECK(out(0, head * 16 + 5) == (head < 3 ? 1.0f : 2.0f));
}

TEST_CASE("a stored prompt equals appending it, and stays exact") {
  const CacheShape shape{.layers = 2, .kv_heads = 2, .head_dim = 32, .capacity = 120};
  const Sequence prompt_rows(shape, 2, 20, 5), s(shape, 2, 100, 6);
  PromptCache prompt(std::vector<int>(20, 7), 2, 2, 32, DType::f32);
  for (const int layer : {0, 1})
    prompt.set(layer, prompt_rows.keys.ref(), prompt_rows.values.ref());
  for (const bool rotate : {false, true}) {
    const KvPolicy policy{.sinks = 2,
                          .recent = 5,
                          .keys = {2},
                          .values = {2},
                          .rotate_keys = rotate,
                          .rotate_values = rotate};
    KvCache with = allocate(shape, policy, prompt);
    KvPolicy longer = policy;
    longer.sinks += 20;
    KvCache without = allocate(shape, longer);
    for (const int layer : {0, 1})
      without.append(layer, prompt_rows.keys.ref(), prompt_rows.values.ref());
    CHECK(with.size() == 20);
    Matrix<float> a(100, 64), b(100, 64);
    s.run(with, 1, 0, 100, a.ref(), ThreadPool::shared()),
        s.run(without, 1, 0, 100, b.ref(), ThreadPool::shared());
    CHECK(identical(a, b));
    PlainCache plain(shape, policy, 20);
    plain.append(prompt_rows.keys.ref(), prompt_rows.values.ref()),
        plain.append(s.keys.ref(), s.values.ref());
    CHECK(plain.worst_error(s.queries.ref(), a.ref(), 99) < 1);
    CHECK_THROWS_AS(with.truncate(19), ContractViolation);
  }
}

TEST_CASE("rotation changes an exact cache within rounding only") {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 64, .capacity = 80};
  const Sequence s(shape, 1, 80);
  KvCache plain = allocate(shape, {}),
          rotating = allocate(shape, {.rotate_keys = true, .rotate_values = true});
  Matrix<float> a(80, 64), b(80, 64);
  s.run(plain, 0, 0, 80, a.ref(), ThreadPool::shared()),
      s.run(rotating, 0, 0, 80, b.ref(), ThreadPool::shared());
  // Each of the three transforms errs by at most (log2(64) + 1) u of a row's length; |q|, |k| <= 16
  // here and |v| too. Scores / 8: 2 * 7 u * 256 / 8 + the plain rounding (68 u * 256 / 8), twice
  // for the weights' sum; values 14 u * 16, sums of 80 terms 80 u * 16.
  const double u = 0x1p-24, bound = 16 * 2 * (14 + 68) * u * 32 + 16 * (14 + 80) * u;
  double largest = 0;
  for (int r = 0; r < 80; ++r) {
    for (int c = 0; c < 64; ++c)
      largest = std::max(largest, std::abs(static_cast<double>(a(r, c)) - b(r, c)));
  }
  CHECK(largest < bound);
  CHECK(largest > 0);
}

TEST_CASE("a full cache says so") {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 32, .capacity = 10};
  KvCache cache = allocate(shape, {.recent = 2, .keys = {4}, .values = {4}});
  const Sequence s(shape, 1, 11);
  CHECK(cache.room(10));
  cache.append(0, s.keys.ref().rows(0, 10), s.values.ref().rows(0, 10));
  REQUIRE_FALSE(cache.room(1));
  CHECK(cache.room(1).error().code == Errc::cache_full);
  CHECK_THROWS_AS(cache.append(0, s.keys.ref().rows(10, 1), s.values.ref().rows(10, 1)),
                  ContractViolation);
}

TEST_CASE("what cannot be attended is refused") {
  const CacheShape shape{.layers = 2, .kv_heads = 1, .head_dim = 32, .capacity = 100};
  KvCache cache = allocate(shape, {.recent = 4, .keys = {4}, .values = {4}});
  const Sequence s(shape, 1, 60);
  Matrix<float> out(60, 32);
  cache.append(0, s.keys.ref(), s.values.ref());
  cache.append(1, s.keys.ref(), s.values.ref());  // stages its own chunk: layer 0's is gone
  CHECK_THROWS_AS(cache.attend(0, s.queries.ref(), out.ref()), ContractViolation);
  CHECK_NOTHROW(cache.attend(0, s.queries.ref().rows(59, 1), out.ref().rows(0, 1)));
  CHECK_NOTHROW(cache.attend(1, s.queries.ref(), out.ref()));
  CHECK_THROWS_AS(cache.attend(2, s.queries.ref(), out.ref()), ContractViolation);
  cache.truncate(50);
  CHECK_THROWS_AS(cache.attend(1, s.queries.ref().rows(0, 1), out.ref().rows(0, 1)),
                  ContractViolation);
}

}  // namespace
