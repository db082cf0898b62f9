// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// The cache as one would write it on a blackboard: every token's exact and rounded rows in vectors,
// the law as two comparisons, attention in double. The oracle of KvCache.

#include <algorithm>
#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/random.hpp>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

namespace bisup_test {

using namespace bisup;

inline Matrix<float> random_matrix(Random& random, int rows, int cols) {
  Matrix<float> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c)
      m(r, c) = static_cast<float>(random.normal() + (c % 7 == 0 ? 1.5 : 0));
  }
  return m;
}

// Keys or values of one layer: what is stored, exact and rounded.
struct PlainSide {
  bool keys;
  int layer;
  std::vector<std::vector<float>> exact = {}, rounded = {},
                                  steps = {};                    // steps: scales of the rounded
  std::vector<float> center = {};                                // [kv_heads * head_dim]
  std::map<std::pair<int, int>, GroupParameters> channels = {};  // by panel and channel

  void push(std::span<const float> row, int exact_below, const CacheShape& shape,
            const KvPolicy& policy) {
    std::vector<float> stored(row.begin(), row.end());
    if (keys ? policy.rotate_keys : policy.rotate_values) {
      const auto dim = static_cast<std::size_t>(shape.head_dim);
      for (std::size_t at = 0; at < stored.size(); at += dim)
        hadamard(std::span(stored).subspan(at, dim));
    }
    rounded.push_back(stored), steps.emplace_back(stored.size());
    if (!policy.exact() && (policy.recent > 0 || static_cast<int>(exact.size()) < exact_below)) {
      const auto dim = static_cast<std::size_t>(shape.head_dim);
      for (int h = 0; h < shape.kv_heads; ++h) {
        const KvEntry entry = policy.entry(layer, h, shape.kv_heads);
        if ((keys ? entry.keys : entry.values).exact()) continue;
        for (float& x : std::span(stored).subspan(static_cast<std::size_t>(h) * dim, dim))
          x = policy.exact_type == DType::f16    ? to_float(to_half(x))
              : policy.exact_type == DType::bf16 ? to_float(to_bfloat16(x))
                                                 : x;
      }
    }
    exact.push_back(stored);
  }
  void truncate(int tokens) {
    for (auto* rows : {&exact, &rounded, &steps}) rows->resize(static_cast<std::size_t>(tokens));
  }
  void find_center(int first, int tokens) {
    center.assign(exact[0].size(), 0);
    for (std::size_t i = 0; i < center.size(); ++i) {
      double sum = 0;
      for (int t = first; t < first + tokens; ++t)
        sum += static_cast<double>(exact[static_cast<std::size_t>(t)][i]);
      center[i] = static_cast<float>(sum / tokens);
    }
  }

  static GroupParameters best(const Format& format, std::span<const float> x, Clip clip,
                              bool fits) {
    GroupParameters chosen = fit(format, x, clip);
    if (!fits) return chosen;
    float least = error(format, x, chosen).error;
    for (int i = 1; i < 13; ++i) {
      const float share = 1.0f - 0.05f * static_cast<float>(i);
      const GroupParameters p = fit(format, x, {clip.high * share, clip.low * share});
      if (error(format, x, p).error < least) least = error(format, x, p).error, chosen = p;
    }
    return chosen;
  }
  static RoundingSums error(const Format& format, std::span<const float> x,
                            const GroupParameters& p) {
    return scalar::rounding_sums(
        x.data(), static_cast<int>(x.size()), p.scale,
        {1 / p.scale,
         static_cast<float>((format.affine() ? 0 : format.smallest_used() - format.lowest()) -
                            p.zero),
         static_cast<float>((1 << format.bits) - 1 - p.zero), p.zero});
  }

  // Tokens first ... last - 1 leave the window.
  void round(int first, int last, int exact_below, const CacheShape& shape,
             const KvPolicy& policy) {
    for (int t = first; t < last; ++t) {
      for (int h = 0; h < shape.kv_heads; ++h) {
        const KvEntry entry = policy.entry(layer, h, shape.kv_heads);
        const KvFormat format = keys ? entry.keys : entry.values;
        if (format.exact()) continue;
        const Clip clip = keys ? entry.key_clip : entry.value_clip;
        if (format.channels) {
          round_channels(t, h, exact_below, format.format(), clip, shape, policy.fit_scales);
          continue;
        }
        const int group = format.group == 0 ? shape.head_dim : format.group;
        for (int g = 0; g < shape.head_dim; g += group) {
          std::vector<float> x;
          const int begin = h * shape.head_dim + g, count = std::min(group, shape.head_dim - g);
          for (int i = begin; i < begin + count; ++i) x.push_back(without_center(t, i));
          const GroupParameters p = best(format.format(), x, clip, policy.fit_scales);
          std::vector<std::uint8_t> codes(x.size());
          encode_group(format.format(), x, p, codes);
          float scale = p.scale;
          const RoundingSums sums = error(format.format(), x, p);
          if (policy.fit_scales && sums.product > 0) {
            scale = stored_scale(format.format(),
                                 scale * std::clamp(sums.square / sums.product, 1.0f, 2.0f));
          }
          for (int i = 0; i < count; ++i) {
            rounded[static_cast<std::size_t>(t)][static_cast<std::size_t>(begin + i)] =
                decode(codes[static_cast<std::size_t>(i)], {scale, p.zero}) + middle(begin + i);
            steps[static_cast<std::size_t>(t)][static_cast<std::size_t>(begin + i)] = scale;
          }
        }
      }
    }
  }
  void round_channels(int t, int h, int exact_below, const Format& format, Clip clip,
                      const CacheShape& shape, bool fits) {
    const int panel = t / 16;
    for (int i = h * shape.head_dim; i < (h + 1) * shape.head_dim; ++i) {
      if (t == std::max(panel * 16, exact_below)) {  // the first to leave decides for all
        std::vector<float> x;
        for (int other = t; other < panel * 16 + 16; ++other) x.push_back(without_center(other, i));
        channels[{panel, i}] = best(format, x, clip, fits);
      }
      const GroupParameters& p = channels[{panel, i}];
      rounded[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)] =
          decode(encode(format, without_center(t, i), 1 / p.scale, p.zero), p) + middle(i);
    }
  }
  [[nodiscard]] float middle(int i) const {
    return center.empty() ? 0.0f : center[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] float without_center(int t, int i) const {
    return exact[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)] - middle(i);
  }
};

class PlainCache {
 public:
  PlainCache(const CacheShape& shape, const KvPolicy& policy, int prompt = 0, int layer = 0)
      : shape_(shape),
        policy_(policy),
        exact_below_(prompt + policy.sinks),
        packed_end_(exact_below_),
        forgotten_(exact_below_),
        keys_{true, layer},
        values_{false, layer} {}

  [[nodiscard]] int size() const { return static_cast<int>(keys_.exact.size()); }
  void append(MatrixRef<const float> keys, MatrixRef<const float> values) {
    forgotten_ = packed_end_;
    for (int t = 0; t < keys.rows(); ++t)
      keys_.push(keys.row(t), exact_below_, shape_, policy_),
          values_.push(values.row(t), exact_below_, shape_, policy_);
    const int end = std::max(packed_end_, size() - policy_.recent);
    if (policy_.center_keys && packed_end_ == exact_below_ && end > packed_end_)
      keys_.find_center(exact_below_, std::min(policy_.recent, 64));
    for (PlainSide* side : {&keys_, &values_})
      side->round(packed_end_, end, exact_below_, shape_, policy_);
    packed_end_ = end;
  }
  void truncate(int tokens) {
    keys_.truncate(tokens), values_.truncate(tokens);
    packed_end_ = forgotten_ = std::max(std::min(packed_end_, tokens), exact_below_);
  }

  // As a fork knows it: its origin's window is in the past.
  void forked() { forgotten_ = packed_end_; }

  // Of query row `row` of `queries`, whose last is the newest token: compares every head of `out`
  // and returns the largest error as a share of what float sums may differ by.
  [[nodiscard]] double worst_error(MatrixRef<const float> queries, MatrixRef<const float> out,
                                   int row) const {
    const int dim = shape_.head_dim, heads = queries.cols() / dim, group = heads / shape_.kv_heads;
    const int query = size() - queries.rows() + row;
    double worst = 0;
    for (int head = 0; head < heads; ++head) {
      std::vector<float> q(queries.row_data(row) + head * dim,
                           queries.row_data(row) + (head + 1) * dim);
      if (policy_.rotate_keys) hadamard(q);
      const int first = shape_.window == 0 ? 0 : std::max(query - shape_.window + 1, 0);
      std::vector<double> weight, result(q.size());
      double largest = -1e300, magnitude = 0, value_magnitude = 0, query_rounding = 0;
      const bool codes = as_codes(head / group);
      float largest_query = 0;
      for (const float x : q) largest_query = std::max(largest_query, std::abs(x));
      for (int j = first; j <= query; ++j) {
        const auto key = row_of(keys_, query, j, head / group);
        double score = 0, size_of_score = 0, size_of_key = 0;
        for (int d = 0; d < dim; ++d) {
          score += static_cast<double>(q[static_cast<std::size_t>(d)]) * key[d];
          size_of_score += std::abs(static_cast<double>(q[static_cast<std::size_t>(d)]) * key[d]);
          size_of_key +=
              std::abs(static_cast<double>(key[d]) - keys_.middle(head / group * dim + d));
        }
        // Half a step of the query's integers, of which the largest is two_byte_levels.
        if (codes && !exact(query, j)) {
          query_rounding = std::max(query_rounding, 0.51 / two_byte_levels * largest_query *
                                                        size_of_key / std::sqrt(dim));
        }
        weight.push_back(score / std::sqrt(dim));
        magnitude = std::max(magnitude, size_of_score / std::sqrt(dim)),
        largest = std::max(largest, weight.back());
      }
      double sum = 0;
      for (double& w : weight) w = std::exp(w - largest), sum += w;
      for (int j = first; j <= query; ++j) {
        const auto value = row_of(values_, query, j, head / group);
        for (int d = 0; d < dim; ++d) {
          result[static_cast<std::size_t>(d)] +=
              weight[static_cast<std::size_t>(j - first)] / sum * value[d];
          value_magnitude = std::max(value_magnitude, std::abs(static_cast<double>(value[d])));
        }
      }
      if (policy_.rotate_values) rotate_double(result);
      // u = 2^-24. A score sums dim products of rounded, scaled queries: (dim + 4) u times its
      // magnitude; a weight adds that and 8 u (2^x and its argument) and 6 u for each tile's
      // correction; both sums of n weights add n u; a rotation of the result log2(dim) u sqrt(dim).
      // A centered key is rounded once more here, which the magnitude of its score holds.
      const double n = query - first + 1, u = 0x1p-24;
      const double in_weight =
          (dim + 6) * u * magnitude + 8 * u + (n / 64 + 2) * 6 * u + query_rounding;
      const double bound =
          value_magnitude *
          (2 * in_weight + 2 * n * u + (policy_.rotate_values ? 16 * std::sqrt(dim) * u : 0));
      for (int d = 0; d < dim; ++d) {
        const double error =
            std::abs(result[static_cast<std::size_t>(d)] - out(row, head * dim + d));
        const double of_integers =
            codes ? weight_rounding(query, first, head / group, d, weight) / sum : 0;
        worst = std::max(worst, std::isfinite(error) ? error / (bound + of_integers) : 1e9);
      }
    }
    return worst;
  }

 private:
  [[nodiscard]] bool exact(int query, int key) const {
    return key < exact_below_ || (query - key < policy_.recent && key >= forgotten_);
  }
  [[nodiscard]] const float* row_of(const PlainSide& side, int query, int key, int kv_head) const {
    return (exact(query, key) ? side.exact : side.rounded)[static_cast<std::size_t>(key)].data() +
           kv_head * shape_.head_dim;
  }
  // Whether the kernel multiplies integers (kernel/attention_tile.hpp).
  [[nodiscard]] bool as_codes(int kv_head) const {
    const KvEntry entry = policy_.entry(keys_.layer, kv_head, shape_.kv_heads);
    return attention_kernels().query_bytes != nullptr && !entry.keys.exact() &&
           !entry.keys.channels && !entry.values.exact();
  }
  // What rounding weights times scales to integers of two bytes, 64 keys together, makes of the sum
  // of one dim of values: half a step, which may be that of the largest weight and the largest
  // scale, for each key; a little more as the step is rounded too. A rotation of the result spreads
  // what happens in any dim.
  [[nodiscard]] double weight_rounding(int query, int first, int kv_head, int dim,
                                       const std::vector<double>& weight) const {
    const int from = policy_.rotate_values ? 0 : dim,
              to = policy_.rotate_values ? shape_.head_dim : dim + 1;
    double total = 0;
    for (int tile = first / kv_tile * kv_tile; tile <= query; tile += kv_tile) {
      for (int d = from; d < to; ++d) {
        double largest_weight = 0, largest_step = 0, levels = 0;
        for (int j = std::max(tile, first); j < std::min(tile + kv_tile, query + 1); ++j) {
          if (exact(query, j)) continue;
          const auto at = static_cast<std::size_t>(kv_head * shape_.head_dim + d);
          const double step = values_.steps[static_cast<std::size_t>(j)][at];
          largest_weight = std::max(largest_weight, weight[static_cast<std::size_t>(j - first)]);
          largest_step = std::max(largest_step, step);
          if (step > 0) levels += std::abs(values_.rounded[static_cast<std::size_t>(j)][at]) / step;
        }
        total += 0.51 / two_byte_levels * largest_weight * largest_step * levels;
      }
    }
    return policy_.rotate_values ? total / std::sqrt(shape_.head_dim) : total;
  }
  static void rotate_double(std::vector<double>& x) {
    for (std::size_t half = 1; half < x.size(); half *= 2) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (i & half) continue;
        const double a = x[i], b = x[i + half];
        x[i] = a + b, x[i + half] = a - b;
      }
    }
    for (double& v : x) v /= std::sqrt(static_cast<double>(x.size()));
  }

  CacheShape shape_;
  KvPolicy policy_;
  int exact_below_, packed_end_, forgotten_;
  PlainSide keys_, values_;
};

}  // namespace bisup_test
