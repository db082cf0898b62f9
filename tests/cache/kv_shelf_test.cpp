// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// 100,000 random operations on sequences that share pages, each sequence beside a plain cache of
// its own that shares nothing.
#include <bisup/cache/kv_shelf.hpp>
#include <vector>

#include <bisup_test.hpp>

#include "plain_cache.hpp"

namespace {

using namespace bisup;
using bisup_test::PlainCache;
using bisup_test::random_matrix;

constexpr CacheShape shelf_shape{.layers = 2, .kv_heads = 1, .head_dim = 32, .capacity = 72};

struct ShelvedSequence {
  KvCache cache;
  PlainCache plain;  // of the second layer
  std::vector<int> ids;
};
struct Remembered {
  PlainCache plain;
  std::vector<int> ids;
  int used;
};

class Operations {
 public:
  Operations(const KvPolicy& policy, std::uint64_t seed)
      : random_(seed),
        policy_(policy),
        shelf_(
            KvCache::allocate(shelf_shape, policy, {}, {.sequences = 8, .tokens = 260}).value()) {}

  void step() {
    switch (random_.below(9)) {
      case 0: return open();
      case 1: return fork();
      case 2: return truncate();
      case 3: return close();
      case 4: return keep();
      case 5: return find();
      default: return append();
    }
  }
  [[nodiscard]] int checked() const { return checked_; }
  // Nothing is held when everything is gone.
  void finish() {
    live_.clear();
    while (shelf_.evict()) {
    }
    REQUIRE(shelf_.root().pool().used_bytes() == 0);
  }

 private:
  int below(int n) { return static_cast<int>(random_.below(static_cast<std::uint32_t>(n))); }
  ShelvedSequence& any() {
    return live_[static_cast<std::size_t>(below(static_cast<int>(live_.size())))];
  }

  void open() {
    auto cache = shelf_.root().fork();
    const bool full = static_cast<int>(live_.size() + kept_.size()) + 1 == 8;
    REQUIRE(full == !cache);
    if (cache)
      live_.push_back({std::move(cache).value(), PlainCache(shelf_shape, policy_, 0, 1), {}});
  }
  void fork() {
    if (live_.empty()) return;
    const ShelvedSequence& origin = any();
    auto cache = origin.cache.fork();
    if (!cache) return;
    live_.push_back({std::move(cache).value(), origin.plain, origin.ids});
    live_.back().plain.forked();
  }
  void truncate() {
    if (live_.empty()) return;
    ShelvedSequence& s = any();
    const int tokens = below(s.cache.size() + 1);
    s.cache.truncate(tokens), s.plain.truncate(tokens);
    s.ids.resize(static_cast<std::size_t>(tokens));
  }
  void close() {
    if (!live_.empty()) live_.erase(live_.begin() + below(static_cast<int>(live_.size())));
  }
  void keep() {
    if (live_.empty()) return;
    const ShelvedSequence& s = any();
    const bool all_live = static_cast<int>(live_.size()) + 1 == 8;
    const bool kept = shelf_.keep(s.ids, s.cache);
    REQUIRE(kept == (!s.ids.empty() && !all_live));
    if (!kept) return;
    if (static_cast<int>(live_.size() + kept_.size()) + 1 == 8) forget_oldest();
    kept_.push_back({s.plain, s.ids, ++clock_});
    kept_.back().plain.forked();
    REQUIRE(shelf_.size() == static_cast<int>(kept_.size()));
  }
  void find() {
    if (kept_.empty()) return;
    // Some kept sequence up to somewhere, and then something new.
    std::vector<int> ids =
        kept_[static_cast<std::size_t>(below(static_cast<int>(kept_.size())))].ids;
    ids.resize(static_cast<std::size_t>(below(static_cast<int>(ids.size()) + 1)));
    ids.push_back(++next_id_);
    Remembered* best = nullptr;
    int most = 0;
    for (Remembered& r : kept_) {
      const int common = static_cast<int>(
          std::mismatch(r.ids.begin(), r.ids.end(), ids.begin(), ids.end()).first - r.ids.begin());
      if (common > most || (common > 0 && common == most && r.ids.size() < best->ids.size()))
        best = &r, most = common;
    }
    const bool full = static_cast<int>(live_.size() + kept_.size()) + 1 == 8;
    auto found = shelf_.find(ids);
    if (best != nullptr) best->used = ++clock_;
    if (!found) {
      REQUIRE(full);
      REQUIRE(kept_.size() == (best == nullptr ? 0u : 1u));
      return;
    }
    REQUIRE(found->tokens == most);
    PlainCache plain = best == nullptr ? PlainCache(shelf_shape, policy_, 0, 1) : best->plain;
    plain.forked();
    if (best != nullptr) plain.truncate(most);
    ids.resize(static_cast<std::size_t>(most));
    if (full) forget_oldest();
    live_.push_back({std::move(found->cache), std::move(plain), ids});
  }
  void append() {
    if (live_.empty()) return;
    ShelvedSequence& s = any();
    const int free = shelf_shape.capacity - s.cache.size();
    if (free == 0) return;
    const int count = std::min(free, below(3) == 0 ? 1 + below(40) : 1 + below(4));
    const int before = shelf_.size();
    if (!shelf_.make_room(s.cache, count)) {
      REQUIRE(shelf_.size() == 0);
      kept_.clear();
      return;
    }
    for (int gone = shelf_.size(); gone < before; ++gone) forget_oldest();
    const auto keys = random_matrix(random_, count, 32), values = random_matrix(random_, count, 32);
    const auto queries = random_matrix(random_, count, 64);
    Matrix<float> out(count, 64);
    for (int layer = 0; layer < shelf_shape.layers; ++layer) {
      s.cache.append(layer, keys.ref(), values.ref());
      if (layer + 1 == shelf_shape.layers) s.cache.attend(layer, queries.ref(), out.ref(), pool_);
    }
    s.plain.append(keys.ref(), values.ref());
    for (int i = 0; i < count; ++i) s.ids.push_back(++next_id_);
    REQUIRE(s.cache.size() == s.plain.size());
    REQUIRE(s.plain.worst_error(queries.ref(), out.ref(), below(count)) < 1);
    ++checked_;
  }
  void forget_oldest() {
    kept_.erase(
        std::min_element(kept_.begin(), kept_.end(),
                         [](const Remembered& a, const Remembered& b) { return a.used < b.used; }));
  }

  Random random_;
  KvPolicy policy_;
  ThreadPool pool_{1};
  KvShelf shelf_;
  std::vector<ShelvedSequence> live_;
  std::vector<Remembered> kept_;
  int clock_ = 0, next_id_ = 0, checked_ = 0;
};

TEST_CASE("100000 random operations follow plain caches that share nothing") {
  const KvPolicy policies[] = {
      {},
      {.sinks = 3, .recent = 20, .keys = {4}, .values = {2}},
      {.recent = 1, .keys = {3}, .values = {8}},
      {.sinks = 5, .keys = {2}, .values = {4}, .rotate_keys = true},
      {.sinks = 18,
       .recent = 17,
       .keys = {.bits = 4, .channels = true},
       .values = {2, 0, Zero::symmetric},
       .fit_scales = true},
      {.sinks = 1,
       .recent = 16,
       .keys = {3},
       .values = {3},
       .rotate_values = true,
       .fit_scales = true,
       .center_keys = true},
      {.recent = 16,
       .table = {{.keys = {2}}, {.keys = {.bits = 2, .channels = true}, .values = {16}}}},
      {.sinks = 2, .recent = 9, .keys = {4}, .values = {3}, .exact_type = DType::f32},
      {.recent = 9, .table = {{}, {.keys = {16}, .values = {3}}}}};
  std::uint64_t seed = 1;
  for (const KvPolicy& policy : policies) {
    Operations operations(policy, ++seed);
    for (int i = 0; i < 11200; ++i) operations.step();
    CHECK(operations.checked() > 2000);
    operations.finish();
  }
}

TEST_CASE("a request starts from what it shares with an earlier one, to the bit") {
  const KvPolicy policy{.sinks = 2, .recent = 16, .keys = {4}, .values = {4}};
  KvShelf shelf(KvCache::allocate(shelf_shape, policy, {}, {.sequences = 4}).value());
  Random random(9);
  const auto rows = random_matrix(random, 60, 32);
  const auto append = [&](KvCache& cache, int first, int count, MatrixRef<float> out) {
    for (int layer = 0; layer < shelf_shape.layers; ++layer) {
      cache.append(layer, rows.ref().rows(first, count), rows.ref().rows(first, count));
      cache.attend(layer, rows.ref().rows(first, count), out);
    }
  };
  std::vector<int> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(i);
  Matrix<float> fresh(60, 32), shared(20, 32);
  {
    auto begun = shelf.find(ids);
    REQUIRE(begun);
    CHECK(begun->tokens == 0);
    Matrix<float> scratch(40, 32);
    append(begun->cache, 0, 40, scratch.ref());
    CHECK(shelf.keep(std::span(ids).first(40), begun->cache));
  }
  auto alone = KvCache::allocate(shelf_shape, policy);
  append(*alone, 0, 60, fresh.ref());
  auto again = shelf.find(ids);
  REQUIRE(again);
  CHECK(again->tokens == 40);
  append(again->cache, 40, 20, shared.ref());
  for (int t = 0; t < 20; ++t) {
    for (int c = 0; c < 32; ++c) REQUIRE(shared(t, c) == fresh(t + 40, c));
  }
  CHECK(shelf.find(std::span(ids).subspan(1))->tokens == 0);
  CHECK(shelf.find(std::span(ids).first(7))->tokens == 7);
  CHECK(shelf.evict());
  CHECK_FALSE(shelf.evict());
}

}  // namespace
