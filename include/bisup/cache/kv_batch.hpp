// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do several sequences attend together? A KvBatch is their caches seen as one: rows of keys,
// values and queries are the sequences' one after the other, and all heads of all sequences are
// tasks of one call, so that a batch of single tokens keeps every thread busy.

#include <span>
#include <vector>

#include <bisup/cache/kv_cache.hpp>

namespace bisup {

class KvBatch {
 public:
  struct Part {
    KvCache* cache = nullptr;  // each at most once
    int tokens = 0;
  };
  explicit KvBatch(std::span<const Part> parts) : parts_(parts) {}

  // As KvCache::append and attend for each part.
  void append(int layer, MatrixRef<const float> keys, MatrixRef<const float> values,
              ThreadPool& pool) {
    std::vector<KvCache::Append> appends;
    int row = 0;
    for (const Part& part : parts_) {
      appends.push_back({part.cache, keys.rows(row, part.tokens), values.rows(row, part.tokens)});
      row += part.tokens;
    }
    BISUP_EXPECTS(row == keys.rows());
    KvCache::append(layer, appends, pool);
  }
  void attend(int layer, MatrixRef<const float> queries, MatrixRef<float> out,
              ThreadPool& pool) const {
    std::vector<AttendRequest> requests;
    int row = 0;
    for (const Part& part : parts_) {
      requests.push_back(
          part.cache->request(layer, queries.rows(row, part.tokens), out.rows(row, part.tokens)));
      row += part.tokens;
    }
    BISUP_EXPECTS(row == queries.rows());
    bisup::attend(requests, pool);
  }

 private:
  std::span<const Part> parts_;
};

}  // namespace bisup
