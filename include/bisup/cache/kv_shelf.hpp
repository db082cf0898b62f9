// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What can a new request take over from old ones? A KvShelf keeps sequences that are done for now;
// a request starts from the one with which it has most in common, sharing its pages. What was used
// least recently goes first when there is no room.
//
// A request that begins with all of a kept sequence continues it as if it had never been put away.
// One that leaves it earlier starts from a truncation, in which what had left the window stays
// packed (kv_cache.hpp): keep a fork at the end of a prefix that many requests share.

#include <algorithm>
#include <cstdint>
#include <list>
#include <span>
#include <utility>
#include <vector>

#include <bisup/cache/kv_cache.hpp>

namespace bisup {

class KvShelf {
 public:
  // root: an empty cache, or one with a stored prompt, on the pool that all sequences will share.
  explicit KvShelf(KvCache root) : root_(std::move(root)) {
    BISUP_EXPECTS(root_.size() == root_.prompt_tokens());
  }

  struct Found {
    KvCache cache;
    int tokens = 0;  // of the request that it holds already, behind the stored prompt
  };

  // A sequence that begins as `ids` do. Errors: cache_full if too many sequences live elsewhere.
  [[nodiscard]] Result<Found> find(std::span<const int> ids) {
    Kept* best = nullptr;
    int most = 0;
    for (Kept& kept : kept_) {
      const int common = common_prefix(kept.ids, ids);
      if (common == 0 || common < most) continue;
      // The shorter of two is cut off less.
      if (common > most || kept.ids.size() < best->ids.size()) best = &kept, most = common;
    }
    if (best != nullptr) best->used = ++clock_;
    if (auto place = make_place(best); !place) return place.error();
    auto cache = (best == nullptr ? root_ : best->cache).fork();
    if (!cache) return cache.error();
    if (best != nullptr) cache->truncate(root_.prompt_tokens() + most);
    return Found{std::move(cache).value(), most};
  }

  // Keeps what `cache` knows after `ids` (without the stored prompt's). Returns whether there was a
  // place for it.
  bool keep(std::span<const int> ids, const KvCache& cache) {
    BISUP_EXPECTS(cache.size() == root_.prompt_tokens() + static_cast<int>(ids.size()));
    BISUP_EXPECTS(&cache.pool() == &root_.pool());
    if (ids.empty() || !make_place(nullptr)) return false;
    kept_.push_back({{ids.begin(), ids.end()}, cache.fork().value(), ++clock_});
    return true;
  }

  // Lets go of kept sequences until `tokens` more fit into `cache`. Errors: cache_full.
  [[nodiscard]] Result<void> make_room(const KvCache& cache, int tokens) {
    auto room = cache.room(tokens);
    while (!room && evict()) room = cache.room(tokens);
    return room;
  }

  // Lets go of the least recently used sequence, if there is one.
  bool evict() {
    const auto oldest = std::min_element(
        kept_.begin(), kept_.end(), [](const Kept& a, const Kept& b) { return a.used < b.used; });
    if (oldest == kept_.end()) return false;
    kept_.erase(oldest);
    return true;
  }
  [[nodiscard]] int size() const noexcept { return static_cast<int>(kept_.size()); }
  [[nodiscard]] const KvCache& root() const noexcept { return root_; }

 private:
  struct Kept {
    std::vector<int> ids;
    KvCache cache;
    std::uint64_t used = 0;
  };

  static int common_prefix(std::span<const int> a, std::span<const int> b) {
    const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
    return static_cast<int>(end - a.begin());
  }
  // For one sequence more, not at the cost of `spared`.
  [[nodiscard]] Result<void> make_place(const Kept* spared) {
    while (root_.pool().living() == root_.pool().sequences()) {
      if (kept_.empty() || (kept_.size() == 1 && spared != nullptr)) {
        return Error{Errc::cache_full, "as many sequences live as the pool is for"};
      }
      (void)evict();  // the spared one was used last
    }
    return {};
  }

  KvCache root_;
  std::list<Kept> kept_;  // letting one go moves no other
  std::uint64_t clock_ = 0;
};

}  // namespace bisup
