// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does attention over a rounded cache go forwards and backwards? A head at a time, in tiles of
// queries whose weights are computed again on the way back, so nothing of the size tokens x tokens
// is kept.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/simulated_block.hpp>
#include <bisup/tune/straight_through.hpp>

namespace bisup::tune {

// How the keys, or the values, of a cache are rounded.
template <class T>
struct CacheRounding {
  KvFormat format;
  bool rotate = false;
  T high = no_clip<T>, low = no_clip<T>;
  int exact = 0;  // first tokens that are not rounded
  bool through_range = false;

  [[nodiscard]] RowRounding rounding() const {
    return {.format = format.format(), .through_range = through_range};
  }
};
template <class T>
[[nodiscard]] CacheRounding<T> key_rounding(const SimulatedCache<T>& c) {
  return {c.keys, c.rotate_keys, c.key_high, c.key_low, c.sinks, c.through_range};
}
template <class T>
[[nodiscard]] CacheRounding<T> value_rounding(const SimulatedCache<T>& c) {
  return {c.values, c.rotate_values, c.value_high, c.value_low, c.sinks, c.through_range};
}

namespace detail {

template <class T>
void rotate_head(std::span<T> head) {
  BISUP_EXPECTS(std::has_single_bit(head.size()));
  row_kernels<T>().hadamard(head.data(), static_cast<int>(head.size()),
                            1 / std::sqrt(static_cast<T>(head.size())));
}

// Calls body(head of row) for each head.
template <class T, class Body>
void over_heads(MatrixRef<T> rows, int t, int head_dim, Body&& body) {
  for (int c = 0; c < rows.cols(); c += head_dim) {
    body(rows.row(t).subspan(static_cast<std::size_t>(c), static_cast<std::size_t>(head_dim)), c);
  }
}

}  // namespace detail

// What attention reads: the stored prompt, then the rounded rows. x: [tokens, kv_heads * head_dim],
// out: [prompt + tokens, the same].
template <class T>
void fill_cache(const CacheRounding<T>& how, const Matrix<T>& prompt, MatrixRef<const T> x,
                int head_dim, MatrixRef<T> out, ThreadPool& pool) {
  for (int p = 0; p < prompt.rows(); ++p) {
    std::copy_n(prompt.row(p).data(), prompt.cols(), out.row_data(p));
  }
  const MatrixRef<T> rows = out.rows(prompt.rows(), x.rows());
  const T high = logistic(how.high), low = logistic(how.low);
  detail::over_rows(x.rows(), x.cols(), pool, [&](int t) {
    std::copy_n(x.row_data(t), x.cols(), rows.row_data(t));
    if (how.format.exact() || t < how.exact) return;
    detail::over_heads(rows, t, head_dim, [&](std::span<T> head, int) {
      if (how.rotate) detail::rotate_head(head);
      round_row<T>(how.rounding(), {{&high, 1}, {&low, 1}}, head, head);
      if (how.rotate) detail::rotate_head(head);
    });
  });
}

// g: the gradient of the rounded rows becomes that of x; adds to the clips'.
template <class T>
void cache_gradient(const CacheRounding<T>& how, MatrixRef<const T> x, int head_dim, MatrixRef<T> g,
                    T& dhigh, T& dlow, ThreadPool& pool) {
  if (how.format.exact()) return;
  const T high = logistic(how.high), low = logistic(how.low);
  Matrix<T> of_token(x.rows(), 2);
  detail::over_rows(x.rows(), x.cols(), pool, [&](int t) {
    if (t < how.exact) return;
    const auto d = of_token.row(t);
    detail::over_heads(g, t, head_dim, [&](std::span<T> dhead, int first) {
      static thread_local std::vector<T> head;
      head.assign(x.row_data(t) + first, x.row_data(t) + first + head_dim);
      if (how.rotate) detail::rotate_head(std::span<T>(head)), detail::rotate_head(dhead);
      round_row_gradient<T>(how.rounding(), {{&high, 1}, {&low, 1}}, head, dhead, dhead,
                            {d.first(1), d.last(1)});
      if (how.rotate) detail::rotate_head(dhead);
    });
  });
  T high_sum = 0, low_sum = 0;
  for (int t = 0; t < x.rows(); ++t) high_sum += of_token(t, 0), low_sum += of_token(t, 1);
  dhigh += high_sum * high * (1 - high), dlow += low_sum * low * (1 - low);
}

// Scratch of attention: one tile of weights a worker, and the key and value gradients of each head.
template <class T>
struct AttentionScratch {
  struct Worker {
    Matrix<T> weights, dweights;  // [query_tile, visible]
  };
  std::vector<Worker> workers;
  Matrix<T> dkeys, dvalues;  // [heads * tokens, head_dim]
};

inline constexpr int query_tile = 128;

namespace detail {

// One head's part of what all tasks see. Queries are scaled already.
template <class T>
struct HeadView {
  MatrixRef<const T> queries, keys,
      values;  // [tokens, head_dim], twice [prompt + tokens, head_dim]
  int prompt = 0;
};
template <class T>
HeadView<T> head_view(const BlockShape& shape, int head, MatrixRef<const T> queries,
                      MatrixRef<const T> keys, MatrixRef<const T> values) {
  const int d = shape.head_dim, from = head / (shape.heads / shape.kv_heads) * d;
  return {queries.cols(head * d, d), keys.cols(from, d), values.cols(from, d),
          keys.rows() - queries.rows()};
}

// The attention weights of queries [first, first + count) over all that one of them sees.
template <class T>
MatrixRef<T> attention_weights(const HeadView<T>& head, int first, int count, Matrix<T>& store,
                               ThreadPool& pool) {
  const int visible = head.prompt + first + count;
  store.resize(count, visible);
  multiply_transposed(head.queries.rows(first, count), head.keys.rows(0, visible), store.ref(),
                      Into::replace, pool);
  const auto softmax = row_kernels<T>().softmax;
  for (int r = 0; r < count; ++r) {
    const int length = head.prompt + first + r + 1;
    softmax(store.row(r).data(), length);
    std::fill(store.row(r).begin() + length, store.row(r).end(), T(0));
  }
  return store.ref();
}

}  // namespace detail

// out = softmax(queries keys^T) values, causally, head by head. queries: [tokens, heads *
// head_dim], scaled; keys and values: [prompt + tokens, kv_heads * head_dim].
template <class T>
void attend(const BlockShape& shape, MatrixRef<const T> queries, MatrixRef<const T> keys,
            MatrixRef<const T> values, MatrixRef<T> out, AttentionScratch<T>& s, ThreadPool& pool) {
  const int tokens = queries.rows(), tiles = (tokens + query_tile - 1) / query_tile;
  s.workers.resize(static_cast<std::size_t>(pool.threads()));
  pool.parallel_for(shape.heads * tiles, [&](int task, int worker) {
    auto& mine = s.workers[static_cast<std::size_t>(worker)];
    const int h = task / tiles, first = task % tiles * query_tile;
    const int count = std::min(query_tile, tokens - first);
    const auto head = detail::head_view(shape, h, queries, keys, values);
    const MatrixRef<const T> p = detail::attention_weights(head, first, count, mine.weights, pool);
    multiply(p, head.values.rows(0, p.cols()),
             out.rows(first, count).cols(h * shape.head_dim, shape.head_dim), Into::replace, pool);
  });
}

// Gradients of queries, keys and values (of tokens, not of the prompt) from that of the output.
template <class T>
void attend_gradient(const BlockShape& shape, MatrixRef<const T> queries, MatrixRef<const T> keys,
                     MatrixRef<const T> values, MatrixRef<const T> dout, MatrixRef<T> dqueries,
                     MatrixRef<T> dkeys, MatrixRef<T> dvalues, AttentionScratch<T>& s,
                     ThreadPool& pool) {
  const int tokens = queries.rows(), d = shape.head_dim;
  s.workers.resize(static_cast<std::size_t>(pool.threads()));
  s.dkeys.resize(shape.heads * tokens, d), s.dvalues.resize(shape.heads * tokens, d);
  pool.parallel_for(shape.heads, [&](int h, int worker) {
    auto& mine = s.workers[static_cast<std::size_t>(worker)];
    const auto head = detail::head_view(shape, h, queries, keys, values);
    const auto dk = s.dkeys.ref().rows(h * tokens, tokens);
    const auto dv = s.dvalues.ref().rows(h * tokens, tokens);
    // The last tile sees all tokens, so going backwards it is the one that replaces.
    const int tiles = (tokens + query_tile - 1) / query_tile;
    for (int tile = tiles - 1; tile >= 0; --tile) {
      const int first = tile * query_tile, count = std::min(query_tile, tokens - first);
      const Into into = tile == tiles - 1 ? Into::replace : Into::add;
      const auto p = detail::attention_weights(head, first, count, mine.weights, pool);
      const int visible = p.cols(), seen = visible - head.prompt;
      const MatrixRef<const T> dy = dout.rows(first, count).cols(h * d, d);
      const MatrixRef<const T> weights = p;
      transposed_multiply(weights.cols(head.prompt, seen), dy, dv.rows(0, seen), into, pool);
      mine.dweights.resize(count, visible);
      const auto dp = mine.dweights.ref();
      multiply_transposed(dy, head.values.rows(0, visible), dp, Into::replace, pool);
      const auto softmax_gradient = gradient_kernels<T>().softmax_gradient;
      for (int r = 0; r < count; ++r) {
        softmax_gradient(p.row_data(r), dp.row_data(r), visible, dp.row_data(r));
      }
      const MatrixRef<const T> ds = dp;
      multiply(ds, head.keys.rows(0, visible), dqueries.rows(first, count).cols(h * d, d),
               Into::replace, pool);
      transposed_multiply(ds.cols(head.prompt, seen), head.queries.rows(first, count),
                          dk.rows(0, seen), into, pool);
    }
  });
  // The heads of one KV head, in order.
  const int group = shape.heads / shape.kv_heads;
  const auto add_row = row_kernels<T>().add;
  detail::over_rows(tokens, dkeys.cols(), pool, [&](int t) {
    for (int h = 0; h < shape.heads; ++h) {
      T* const dk = dkeys.row_data(t) + h / group * d;
      T* const dv = dvalues.row_data(t) + h / group * d;
      if (h % group == 0) std::fill_n(dk, d, T(0)), std::fill_n(dv, d, T(0));
      add_row(s.dkeys.row(h * tokens + t).data(), d, dk);
      add_row(s.dvalues.row(h * tokens + t).data(), d, dv);
    }
  });
}

}  // namespace bisup::tune
