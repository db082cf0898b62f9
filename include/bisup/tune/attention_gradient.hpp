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

// What queries attend to: rows [prompt + tokens, kv_heads * head_dim] as the cache holds them and,
// for the `recent` tokens up to the query itself, rows [tokens, the same] as they came.
template <class T>
struct AttendedRows {
  MatrixRef<const T> keys, values;
  MatrixRef<const T> recent_keys, recent_values;
  int recent = 0;
  // Of all products but those that sum over keys: there 256 of them would share a scale with the
  // token that most attention goes to, and what little each of the others weighs would be lost.
  Products products = Products::floats;
};
// The gradients of the same, of the prompt excluded; those of recent rows are empty without them.
template <class T>
struct AttendedGradients {
  MatrixRef<T> keys, values;  // all [tokens, kv_heads * head_dim]
  MatrixRef<T> recent_keys, recent_values;
};

// Scratch of attention: one tile of weights a worker, and the key and value gradients of each head.
template <class T>
struct AttentionScratch {
  struct Worker {
    Matrix<T> weights, dweights;  // [query_tile, visible]
    Matrix<T> band;               // [query_tile, recent + query_tile]
  };
  std::vector<Worker> workers;
  Matrix<T> dkeys, dvalues, drecent_keys, drecent_values;  // [heads * tokens, head_dim]
};

inline constexpr int query_tile = 128;

namespace detail {

// One tile of one head: queries [first, first + count), scaled already, and all that one of them
// sees; the band is what they see of recent tokens, tokens [band_first, first + count).
template <class T>
struct HeadTile {
  int prompt = 0, first = 0, count = 0, visible = 0, recent = 0, band_first = 0;
  Products multiplied_in = Products::floats;
  MatrixRef<const T> queries;                 // [count, head_dim]
  MatrixRef<const T> keys, values;            // [visible, head_dim]
  MatrixRef<const T> band_keys, band_values;  // [band, head_dim]

  HeadTile(const BlockShape& shape, int head, int tile, MatrixRef<const T> all_queries,
           const AttendedRows<T>& rows) {
    const int tokens = all_queries.rows(), d = shape.head_dim;
    const int from = head / (shape.heads / shape.kv_heads) * d;
    prompt = rows.keys.rows() - tokens;
    first = tile * query_tile, count = std::min(query_tile, tokens - first);
    visible = prompt + first + count;
    recent = rows.recent, band_first = std::max(0, first - recent + 1);
    multiplied_in = rows.products;
    queries = all_queries.rows(first, count).cols(head * d, d);
    keys = rows.keys.rows(0, visible).cols(from, d);
    values = rows.values.rows(0, visible).cols(from, d);
    if (recent == 0) return;
    band_keys = rows.recent_keys.rows(band_first, band()).cols(from, d);
    band_values = rows.recent_values.rows(band_first, band()).cols(from, d);
  }
  [[nodiscard]] int band() const noexcept { return first + count - band_first; }

  // Calls body(row, first column of the band, columns) with the recent tokens that a query sees.
  template <class Body>
  void over_band(Body&& body) const {
    for (int r = 0; r < count; ++r) {
      const int from = std::max(band_first, first + r - recent + 1);
      body(r, from - band_first, first + r + 1 - from);
    }
  }
  // a b^T where b are all rows, and those of the band where tokens are recent. [count, visible]
  void products(MatrixRef<const T> a, MatrixRef<const T> b, MatrixRef<const T> b_band,
                Matrix<T>& out, Matrix<T>& scratch, ThreadPool& pool) const {
    out.resize(count, visible);
    multiply_transposed(a, b, out.ref(), Into::replace, pool, multiplied_in);
    if (recent == 0) return;
    scratch.resize(count, band());
    multiply_transposed(a, b_band, scratch.ref(), Into::replace, pool, multiplied_in);
    over_band([&](int r, int column, int columns) {
      std::copy_n(scratch.row(r).data() + column, columns, in_band(out.ref(), r, column));
    });
  }
  // Moves what belongs to recent tokens from `all` to `band`, leaving zeros.
  void split(MatrixRef<T> all, Matrix<T>& into) const {
    into.resize(count, band());
    over_band([&](int r, int column, int columns) {
      std::fill(into.row(r).begin(), into.row(r).end(), T(0));
      T* const from = in_band(all, r, column);
      std::copy_n(from, columns, into.row(r).data() + column);
      std::fill_n(from, columns, T(0));
    });
  }
  void put_back(const Matrix<T>& from, MatrixRef<T> all) const {
    over_band([&](int r, int column, int columns) {
      std::copy_n(from.row(r).data() + column, columns, in_band(all, r, column));
    });
  }
  // The attention weights, zero beyond the query itself.                    [count, visible]
  void weights(Matrix<T>& out, Matrix<T>& scratch, ThreadPool& pool) const {
    products(queries, keys, band_keys, out, scratch, pool);
    const auto softmax = row_kernels<T>().softmax;
    for (int r = 0; r < count; ++r) {
      const int length = prompt + first + r + 1;
      softmax(out.row(r).data(), length);
      std::fill(out.row(r).begin() + length, out.row(r).end(), T(0));
    }
  }

 private:
  [[nodiscard]] T* in_band(MatrixRef<T> all, int r, int column) const {
    return all.row_data(r) + prompt + band_first + column;
  }
};

// The heads of one KV head, summed in order: [heads * tokens, head_dim] to
// [tokens, kv_heads * head_dim].
template <class T>
void sum_heads(const BlockShape& shape, const Matrix<T>& from, MatrixRef<T> into,
               ThreadPool& pool) {
  const int d = shape.head_dim, group = shape.heads / shape.kv_heads;
  const auto add_row = row_kernels<T>().add;
  over_rows(into.rows(), into.cols(), pool, [&](int t) {
    for (int h = 0; h < shape.heads; ++h) {
      T* const to = into.row_data(t) + h / group * d;
      if (h % group == 0) std::fill_n(to, d, T(0));
      add_row(from.row(h * into.rows() + t).data(), d, to);
    }
  });
}

}  // namespace detail

// out = softmax(queries keys^T) values, causally, head by head. queries, out: [tokens, heads *
// head_dim], queries scaled.
template <class T>
void attend(const BlockShape& shape, MatrixRef<const T> queries, const AttendedRows<T>& rows,
            MatrixRef<T> out, AttentionScratch<T>& s, ThreadPool& pool) {
  const int tiles = (queries.rows() + query_tile - 1) / query_tile, d = shape.head_dim;
  s.workers.resize(static_cast<std::size_t>(pool.threads()));
  pool.parallel_for(shape.heads * tiles, [&](int task, int worker) {
    auto& mine = s.workers[static_cast<std::size_t>(worker)];
    const detail::HeadTile<T> tile(shape, task / tiles, task % tiles, queries, rows);
    const MatrixRef<T> y = out.rows(tile.first, tile.count).cols(task / tiles * d, d);
    tile.weights(mine.weights, mine.band, pool);
    if (tile.recent > 0) tile.split(mine.weights.ref(), mine.band);
    multiply(std::as_const(mine.weights).ref(), tile.values, y, Into::replace, pool);
    if (tile.recent == 0) return;
    multiply(std::as_const(mine.band).ref(), tile.band_values, y, Into::add, pool);
  });
}

// Gradients of queries and of what they attended to from that of the output.
template <class T>
void attend_gradient(const BlockShape& shape, MatrixRef<const T> queries,
                     const AttendedRows<T>& rows, MatrixRef<const T> dout, MatrixRef<T> dqueries,
                     const AttendedGradients<T>& gradients, AttentionScratch<T>& s,
                     ThreadPool& pool) {
  const int tokens = queries.rows(), d = shape.head_dim;
  const int tiles = (tokens + query_tile - 1) / query_tile;
  const bool recent = rows.recent > 0;
  s.workers.resize(static_cast<std::size_t>(pool.threads()));
  s.dkeys.resize(shape.heads * tokens, d), s.dvalues.resize(shape.heads * tokens, d);
  if (recent) s.drecent_keys.resize(shape.heads * tokens, d);
  if (recent) s.drecent_values.resize(shape.heads * tokens, d);
  pool.parallel_for(shape.heads, [&](int h, int worker) {
    auto& mine = s.workers[static_cast<std::size_t>(worker)];
    const auto of_head = [&](Matrix<T>& m) { return m.ref().rows(h * tokens, tokens); };
    for (Matrix<T>* m : {&s.drecent_keys, &s.drecent_values}) {
      for (int t = 0; t < tokens && recent; ++t) {
        std::fill_n(of_head(*m).row_data(t), d, T(0));
      }
    }
    // The last tile sees all tokens, so going backwards it is the one that replaces.
    for (int at = tiles - 1; at >= 0; --at) {
      const detail::HeadTile<T> tile(shape, h, at, queries, rows);
      const Into into = at == tiles - 1 ? Into::replace : Into::add;
      const MatrixRef<const T> dy = dout.rows(tile.first, tile.count).cols(h * d, d);
      const int seen = tile.visible - tile.prompt;
      // to += part^T from, of the tokens that the tile sees, and of its band.
      const auto give = [&](const Matrix<T>& part, MatrixRef<const T> from, Matrix<T>& to,
                            Matrix<T>& to_recent) {
        transposed_multiply(part.ref().cols(tile.prompt, seen), from, of_head(to).rows(0, seen),
                            into, pool, tile.multiplied_in);
        if (!recent) return;
        transposed_multiply(std::as_const(mine.band).ref(), from,
                            of_head(to_recent).rows(tile.band_first, tile.band()), Into::add, pool,
                            tile.multiplied_in);
      };
      tile.weights(mine.weights, mine.band, pool);
      if (recent) tile.split(mine.weights.ref(), mine.band);
      give(mine.weights, dy, s.dvalues, s.drecent_values);
      if (recent) tile.put_back(mine.band, mine.weights.ref());

      tile.products(dy, tile.values, tile.band_values, mine.dweights, mine.band, pool);
      const auto softmax_gradient = gradient_kernels<T>().softmax_gradient;
      for (int r = 0; r < tile.count; ++r) {
        T* const dp = mine.dweights.row(r).data();
        softmax_gradient(mine.weights.row(r).data(), dp, tile.visible, dp);
      }
      if (recent) tile.split(mine.dweights.ref(), mine.band);
      const MatrixRef<T> dq = dqueries.rows(tile.first, tile.count).cols(h * d, d);
      multiply(std::as_const(mine.dweights).ref(), tile.keys, dq, Into::replace, pool);
      if (recent) multiply(std::as_const(mine.band).ref(), tile.band_keys, dq, Into::add, pool);
      give(mine.dweights, tile.queries, s.dkeys, s.drecent_keys);
    }
  });
  detail::sum_heads(shape, s.dkeys, gradients.keys, pool);
  detail::sum_heads(shape, s.dvalues, gradients.values, pool);
  if (!recent) return;
  detail::sum_heads(shape, s.drecent_keys, gradients.recent_keys, pool);
  detail::sum_heads(shape, s.drecent_values, gradients.recent_values, pool);
}

}  // namespace bisup::tune
