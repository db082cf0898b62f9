// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tokens hurt when their keys and values are rounded? The horizontal direction of BiSup: how
// much of attention's output is error because of the cache alone, and whose.
//
// If only token j is rounded, k_j + dk and v_j + dv, the weight p of query q grows to p E / D with
// E = exp(q dk), D = 1 + p (E - 1), and its output o moves by exactly
//   (p / D) (E dv + (E - 1) (v_j - o)),
// so all tokens are asked one by one at the price of a few products.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/cache/packed_rows.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/dot.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

// Sums over queries and heads; by source token where there is a list, [tokens].
struct CacheError {
  std::vector<double> mass;     // attention that the token gets
  std::vector<double> queries;  // that see the token, times heads
  std::vector<double> error;    // |change of the output|^2 if only this token is rounded
  double all = 0;               // the same if every token is rounded that the cache's law rounds
  double power = 0;             // |output|^2

  void add(const CacheError& other) {
    const auto add_each = [](std::vector<double>& to, const std::vector<double>& from) {
      to.resize(std::max(to.size(), from.size()));
      for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
    };
    add_each(mass, other.mass), add_each(queries, other.queries), add_each(error, other.error);
    all += other.all, power += other.power;
  }
};

// What attention reads, exact and as the cache gives it back. Queries: the last tokens, [queries,
// heads * head_dim]; the others [tokens, kv_heads * head_dim], after RoPE.
struct CachedAttention {
  MatrixRef<const float> queries, keys, values, cached_keys, cached_values;
  int head_dim = 0;
  float scale = 1;
  KvLaw law{};
};

namespace detail {

[[nodiscard]] inline Matrix<float> head_of(MatrixRef<const float> rows, int head, int head_dim) {
  Matrix<float> part(rows.rows(), head_dim);
  for (int t = 0; t < rows.rows(); ++t)
    std::copy_n(rows.row_data(t) + head * head_dim, head_dim, part.row(t).data());
  return part;
}
[[nodiscard]] inline Matrix<float> difference_of(MatrixRef<const float> a,
                                                 MatrixRef<const float> b) {
  Matrix<float> d(a.rows(), a.cols());
  for (int t = 0; t < a.rows(); ++t) {
    for (int c = 0; c < a.cols(); ++c) d(t, c) = a(t, c) - b(t, c);
  }
  return d;
}
// One query head.
inline void add_head_error(const CachedAttention& a, int head, CacheError& sums, ThreadPool& pool) {
  const int heads = a.queries.cols() / a.head_dim, kv_heads = a.keys.cols() / a.head_dim;
  const int kv_head = head / (heads / kv_heads);
  const int queries = a.queries.rows(), tokens = a.keys.rows(), first = tokens - queries;
  const Matrix<float> q = head_of(a.queries, head, a.head_dim);
  const Matrix<float> k = head_of(a.keys, kv_head, a.head_dim);
  const Matrix<float> v = head_of(a.values, kv_head, a.head_dim);
  const Matrix<float> dk =
      difference_of(head_of(a.cached_keys, kv_head, a.head_dim).ref(), k.ref());
  const Matrix<float> dv =
      difference_of(head_of(a.cached_values, kv_head, a.head_dim).ref(), v.ref());

  Matrix<float> p(queries, tokens), grown(queries, tokens);  // weights; scores' change
  multiply_transposed(q.ref(), k.ref(), p.ref(), Into::replace, pool);
  multiply_transposed(q.ref(), dk.ref(), grown.ref(), Into::replace, pool);
  Matrix<float> rounded(queries, tokens);  // weights over the rounded cache
  pool.parallel_for(queries, [&](int i, int) {
    const int query = first + i;
    const auto softmax = [&](std::span<float> row, auto&& score) {
      const int from = a.law.first_visible(query);
      float most = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int j = from; j <= query; ++j) most = std::max(most, score(j));
      for (int j = 0; j < tokens; ++j) {
        const bool visible = j >= from && j <= query;
        auto& weight = row[static_cast<std::size_t>(j)];
        weight = visible ? std::exp(score(j) - most) : 0.0f;
        sum += weight;
      }
      for (float& weight : row) weight /= sum;
    };
    for (int j = 0; j < tokens; ++j) {
      p(i, j) *= a.scale;
      grown(i, j) = a.law.exact(query, j) ? 0.0f : a.scale * grown(i, j);
    }
    softmax(rounded.row(i), [&](int j) { return p(i, j) + grown(i, j); });
    const std::vector<float> scores(p.row(i).begin(), p.row(i).end());
    softmax(p.row(i), [&](int j) { return scores[static_cast<std::size_t>(j)]; });
  });
  Matrix<float> o(queries, a.head_dim), all(queries, a.head_dim);
  multiply(p.ref(), v.ref(), o.ref(), Into::replace, pool);
  multiply(rounded.ref(), v.ref(), all.ref(), Into::replace, pool);
  for (int i = 0; i < queries; ++i) {
    for (int j = 0; j < tokens; ++j) {
      if (a.law.exact(first + i, j)) rounded(i, j) = 0;  // what is left multiplies dv
    }
  }
  multiply(rounded.ref(), dv.ref(), all.ref(), Into::add, pool);
  Matrix<float> od(queries, tokens), ov(queries, tokens);
  multiply_transposed(o.ref(), dv.ref(), od.ref(), Into::replace, pool);
  multiply_transposed(o.ref(), v.ref(), ov.ref(), Into::replace, pool);

  std::vector<double> oo(static_cast<std::size_t>(queries));
  for (int i = 0; i < queries; ++i) {
    oo[static_cast<std::size_t>(i)] = dot(o.row(i), o.row(i));
    sums.power += oo[static_cast<std::size_t>(i)];
    for (int c = 0; c < a.head_dim; ++c) {
      const double moved = static_cast<double>(all(i, c)) - static_cast<double>(o(i, c));
      sums.all += moved * moved;
    }
  }
  pool.parallel_for(tokens, [&](int j, int) {
    const auto at = static_cast<std::size_t>(j);
    const double vv = dot(v.row(j), v.row(j)), dd = dot(dv.row(j), dv.row(j)),
                 dv_v = dot(dv.row(j), v.row(j));
    for (int i = std::max(j - first, 0); i < queries; ++i) {
      if (!a.law.visible(first + i, j)) continue;
      const double weight = static_cast<double>(p(i, j));
      sums.mass[at] += weight, sums.queries[at] += 1;
      if (a.law.exact(first + i, j)) continue;
      const double less = std::expm1(static_cast<double>(grown(i, j))), e = 1 + less;
      const double share = weight / (1 + weight * less);
      const double square =
          e * e * dd + 2 * e * less * (dv_v - static_cast<double>(od(i, j))) +
          less * less * (vv - 2 * static_cast<double>(ov(i, j)) + oo[static_cast<std::size_t>(i)]);
      sums.error[at] += share * share * std::max(square, 0.0);
    }
  });
}

}  // namespace detail

[[nodiscard]] inline CacheError cache_error(const CachedAttention& a, ThreadPool& pool) {
  BISUP_EXPECTS(a.head_dim > 0 && a.queries.rows() <= a.keys.rows());
  CacheError sums;
  const auto tokens = static_cast<std::size_t>(a.keys.rows());
  sums.mass.resize(tokens), sums.queries.resize(tokens), sums.error.resize(tokens);
  for (int head = 0; head < a.queries.cols() / a.head_dim; ++head)
    detail::add_head_error(a, head, sums, pool);
  return sums;
}

// Keys and values of tokens as one layer of a cache gives them back when they have left its window:
// [tokens, kv_heads * head_dim]. `policy` is that layer's. Errors: those of KvCache::allocate.
struct CachedRows {
  Matrix<float> keys, values;
};
[[nodiscard]] inline Result<CachedRows> cached_rows(MatrixRef<const float> keys,
                                                    MatrixRef<const float> values, CacheShape shape,
                                                    KvPolicy policy, ThreadPool& pool) {
  const int tokens = keys.rows(), width = keys.cols();
  CachedRows rows{Matrix<float>(tokens, width), Matrix<float>(tokens, width)};
  for (int t = 0; t < tokens; ++t) {
    std::copy_n(keys.row_data(t), width, rows.keys.row(t).data());
    std::copy_n(values.row_data(t), width, rows.values.row(t).data());
  }
  if (policy.exact()) return rows;
  // More tokens push these out of the window. Sinks are rounded too: the law says who reads that.
  const int more = policy.recent + kv_panel;
  shape.layers = 1, shape.capacity = tokens + more, policy.sinks = 0;
  auto cache = KvCache::allocate(shape, policy);
  if (!cache) return cache.error();
  Matrix<float> last(more, width);
  cache->append(0, keys, values, pool);
  cache->append(0, last.ref(), last.ref(), pool);
  const KvEntry entry = policy.entry(0, 0, shape.kv_heads);
  if (!entry.keys.exact()) read_packed(*cache, 0, KvSide::keys, rows.keys.ref());
  if (!entry.values.exact()) read_packed(*cache, 0, KvSide::values, rows.values.ref());
  return rows;
}

}  // namespace bisup
