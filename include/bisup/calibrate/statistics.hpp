// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is remembered of the inputs that a linear saw? Sums over tokens, which add up: those of two
// halves of the data, of two threads or two machines, are merged into those of the whole.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/rank_update.hpp>

namespace bisup {

// largest = max(largest, |x|) of each channel; x: [tokens, in].
inline void add_largest(MatrixRef<const float> x, std::span<float> largest) {
  BISUP_EXPECTS(static_cast<std::size_t>(x.cols()) == largest.size());
  for (int t = 0; t < x.rows(); ++t) {
    const float* row = x.row_data(t);
    for (std::size_t i = 0; i < largest.size(); ++i)
      largest[i] = std::max(largest[i], std::fabs(row[i]));
  }
}

// Per channel: what the transforms and the clip search need.
struct ChannelStatistics {
  std::vector<double> squares, sums;  // [in]
  std::vector<float> largest;         // [in]: max |x|
  long tokens = 0;

  explicit ChannelStatistics(int channels = 0)
      : squares(static_cast<std::size_t>(channels)),
        sums(squares.size()),
        largest(squares.size()) {}
  [[nodiscard]] int channels() const { return static_cast<int>(squares.size()); }

  void add(MatrixRef<const float> x) {  // [tokens, in]
    BISUP_EXPECTS(x.cols() == channels());
    for (int t = 0; t < x.rows(); ++t) {
      const float* row = x.row_data(t);
      for (std::size_t i = 0; i < squares.size(); ++i) {
        const double v = static_cast<double>(row[i]);
        squares[i] += v * v, sums[i] += v;
      }
    }
    add_largest(x, largest);
    tokens += x.rows();
  }
  void merge(const ChannelStatistics& other) {
    BISUP_EXPECTS(other.channels() == channels());
    for (std::size_t i = 0; i < squares.size(); ++i) {
      squares[i] += other.squares[i], sums[i] += other.sums[i];
      largest[i] = std::max(largest[i], other.largest[i]);
    }
    tokens += other.tokens;
  }
  // E[x^2] of each channel.
  [[nodiscard]] std::vector<float> power() const {
    std::vector<float> mean(squares.size());
    for (std::size_t i = 0; i < mean.size(); ++i)
      mean[i] = static_cast<float>(squares[i] / static_cast<double>(std::max(tokens, 1L)));
    return mean;
  }
};

// Second moments H = sum x x^T: float within a chunk of tokens, double across chunks.
class SecondMoments {
 public:
  explicit SecondMoments(int channels) : sums_(channels, channels), chunk_(channels, channels) {}

  void add(MatrixRef<const float> x, ThreadPool& pool) {  // [tokens, in]
    constexpr int chunk_tokens = 2048;
    const int n = sums_.cols();
    BISUP_EXPECTS(x.cols() == n);
    for (int first = 0; first < x.rows(); first += chunk_tokens) {
      pool.parallel_for(n, [&](int r, int) { std::fill_n(chunk_.row(r).data(), r + 1, 0.0f); });
      add_gram(x.rows(first, std::min(chunk_tokens, x.rows() - first)), chunk_.ref(), pool);
      pool.parallel_for(n, [&](int r, int) {
        for (int c = 0; c <= r; ++c) sums_(r, c) += static_cast<double>(chunk_(r, c));
      });
    }
    tokens_ += x.rows();
  }
  void merge(const SecondMoments& other) {
    BISUP_EXPECTS(other.sums_.cols() == sums_.cols());
    for (int r = 0; r < sums_.rows(); ++r) {
      for (int c = 0; c <= r; ++c) sums_(r, c) += other.sums_(r, c);
    }
    tokens_ += other.tokens_;
  }
  [[nodiscard]] long tokens() const noexcept { return tokens_; }
  // H / tokens, symmetric: [in, in].
  [[nodiscard]] Matrix<float> mean() const {
    const double unit = 1.0 / static_cast<double>(std::max(tokens_, 1L));
    Matrix<float> h(sums_.rows(), sums_.cols());
    for (int r = 0; r < h.rows(); ++r) {
      for (int c = 0; c <= r; ++c) h(r, c) = h(c, r) = static_cast<float>(sums_(r, c) * unit);
    }
    return h;
  }

 private:
  Matrix<double> sums_;  // on and below the diagonal
  Matrix<float> chunk_;
  long tokens_ = 0;
};

}  // namespace bisup
