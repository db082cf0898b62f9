// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a one-block model compute? Plain double loops that read like the definition, for proofs
// that a transform changes nothing; what runs online between the weights is given as functions.

#include <algorithm>
#include <bisup/core/random.hpp>
#include <bisup/transform/float_block.hpp>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

struct ReferenceModel {
  bisup::BlockShape shape;
  bisup::Matrix<double> embedding;  // [vocabulary, hidden]
  bisup::FloatBlock<double> block;
  std::vector<double> final_norm;
  bisup::Matrix<double> head;  // [vocabulary, hidden]

  // What stands online: on each head of queries and keys after RoPE, before o, before down.
  using Online = std::function<void(std::span<double>)>;
  Online after_rope, before_output, before_down;
};

inline bisup::Matrix<double> random_matrix(int rows, int cols, bisup::Random& random) {
  bisup::Matrix<double> m(rows, cols);
  for (int i = 0; i < rows * cols; ++i) m.data()[i] = random.normal() / std::sqrt(cols);
  return m;
}

// Numbers around 1, as norms and scales are.
inline std::vector<double> random_scales(int count, bisup::Random& random) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& v : values) v = std::exp(0.5 * random.normal());
  return values;
}

inline ReferenceModel random_reference(bool biases, bool head_norms) {
  bisup::Random random(42);
  ReferenceModel m;
  m.shape = {.hidden = 24, .heads = 12, .kv_heads = 3, .head_dim = 8, .intermediate = 40};
  const auto& s = m.shape;
  const auto linear = [&](int out, int in) {
    bisup::FloatLinear<double> made{random_matrix(out, in, random), {}};
    for (int i = 0; biases && i < out; ++i) made.bias.push_back(0.3 * random.normal());
    return made;
  };
  m.embedding = random_matrix(11, s.hidden, random);
  m.block.q = linear(s.heads * s.head_dim, s.hidden);
  m.block.k = linear(s.kv_heads * s.head_dim, s.hidden);
  m.block.v = linear(s.kv_heads * s.head_dim, s.hidden);
  m.block.o = linear(s.hidden, s.heads * s.head_dim);
  m.block.gate = linear(s.intermediate, s.hidden);
  m.block.up = linear(s.intermediate, s.hidden);
  m.block.down = linear(s.hidden, s.intermediate);
  m.block.attention_norm = random_scales(s.hidden, random);
  m.block.mlp_norm = random_scales(s.hidden, random);
  if (head_norms) {
    m.block.query_norm = random_scales(s.head_dim, random);
    m.block.key_norm = random_scales(s.head_dim, random);
  }
  m.final_norm = random_scales(s.hidden, random);
  m.head = random_matrix(11, s.hidden, random);
  return m;
}

namespace reference {

using Vector = std::vector<double>;

inline Vector product(const bisup::FloatLinear<double>& linear, const Vector& x) {
  Vector y = linear.bias;
  y.resize(static_cast<std::size_t>(linear.weights.rows()), 0.0);
  for (std::size_t r = 0; r < y.size(); ++r) {
    for (std::size_t c = 0; c < x.size(); ++c) {
      y[r] += linear.weights(static_cast<int>(r), static_cast<int>(c)) * x[c];
    }
  }
  return y;
}

inline void rms_norm(std::span<double> x, const Vector& weight, double eps) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double root = std::sqrt(squares / static_cast<double>(x.size()) + eps);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= weight[i] / root;
}

inline void rope(std::span<double> head, int position) {
  const std::size_t half = head.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle =
        position * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
    const double a = head[i], b = head[i + half];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

inline Vector plus(Vector x, const Vector& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  return x;
}

}  // namespace reference

// The logits of every position. [tokens, vocabulary]
inline std::vector<std::vector<double>> logits(const ReferenceModel& m,
                                               const std::vector<int>& ids) {
  using namespace reference;
  const auto& s = m.shape;
  const auto size = static_cast<std::size_t>(s.head_dim);
  const auto head_of = [&](Vector& x, int h) {
    return std::span<double>(x).subspan(static_cast<std::size_t>(h) * size, size);
  };
  const auto online = [](const ReferenceModel::Online& change, std::span<double> x) {
    if (change) change(x);
  };
  const auto prepare = [&](Vector& x, int heads, const Vector& norm, int position) {
    for (int h = 0; h < heads; ++h) {
      const auto head = head_of(x, h);
      if (!norm.empty()) rms_norm(head, norm, s.norm_eps);
      rope(head, position);
      online(m.after_rope, head);
    }
  };
  std::vector<Vector> keys, values, result;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    Vector x(m.embedding.row(ids[t]).begin(), m.embedding.row(ids[t]).end());
    Vector normed = x;
    rms_norm(normed, m.block.attention_norm, s.norm_eps);
    Vector q = product(m.block.q, normed);
    keys.push_back(product(m.block.k, normed));
    values.push_back(product(m.block.v, normed));
    prepare(q, s.heads, m.block.query_norm, static_cast<int>(t));
    prepare(keys.back(), s.kv_heads, m.block.key_norm, static_cast<int>(t));

    Vector attended(q.size(), 0.0);
    for (int h = 0; h < s.heads; ++h) {
      const int kv_head = h / (s.heads / s.kv_heads);
      Vector weights;
      double sum = 0;
      for (std::size_t past = 0; past <= t; ++past) {
        double score = 0;
        for (std::size_t i = 0; i < size; ++i)
          score += head_of(q, h)[i] * head_of(keys[past], kv_head)[i];
        weights.push_back(std::exp(score / std::sqrt(s.head_dim)));
        sum += weights.back();
      }
      for (std::size_t past = 0; past <= t; ++past) {
        for (std::size_t i = 0; i < size; ++i) {
          head_of(attended, h)[i] += weights[past] / sum * head_of(values[past], kv_head)[i];
        }
      }
    }
    online(m.before_output, attended);
    x = plus(x, product(m.block.o, attended));

    normed = x;
    rms_norm(normed, m.block.mlp_norm, s.norm_eps);
    Vector hidden = product(m.block.up, normed);
    const Vector gate = product(m.block.gate, normed);
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] *= gate[i] / (1 + std::exp(-gate[i]));
    online(m.before_down, hidden);
    x = plus(x, product(m.block.down, hidden));

    rms_norm(x, m.final_norm, s.norm_eps);
    result.push_back(product({m.head.clone(), {}}, x));
  }
  return result;
}

inline const std::vector<int> reference_ids = {3, 0, 7, 10, 3, 5};

// The largest difference of logits as a fraction of the largest logit.
inline double difference(const ReferenceModel& a, const ReferenceModel& b) {
  const auto x = logits(a, reference_ids), y = logits(b, reference_ids);
  double largest = 0, apart = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t i = 0; i < x[t].size(); ++i) {
      largest = std::max(largest, std::fabs(x[t][i]));
      apart = std::max(apart, std::fabs(x[t][i] - y[t][i]));
    }
  }
  return apart / largest;
}

// Some twenty operations of up to 100 additions follow each other, a rounding of 1e-16 each, and no
// step makes an error much larger: what is the same stays below the first, what is not, above the
// other.
inline constexpr double same = 1e-10, another = 1e-3;
