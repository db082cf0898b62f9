// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/attention_gradient.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

constexpr BlockShape shape{.heads = 4, .kv_heads = 2, .head_dim = 3};
constexpr int tokens = 2 * query_tile + 19, prompt = 4;  // three tiles, the last one short

struct Problem {
  Matrix<double> q = difference::normals(tokens, 12, 1, 1);
  Matrix<double> keys = difference::normals(prompt + tokens, 6, 1, 2);
  Matrix<double> values = difference::normals(prompt + tokens, 6, 1, 3);
  Matrix<double> recent_keys = difference::normals(tokens, 6, 1, 4);
  Matrix<double> recent_values = difference::normals(tokens, 6, 1, 5);
  Matrix<double> weights = difference::normals(tokens, 12, 1, 6);
  int recent;

  AttendedRows<double> rows() const {
    return {keys.ref(), values.ref(), recent_keys.ref(), recent_values.ref(), recent};
  }
  // One query after another, by the definition.
  std::vector<double> expected(int t, int head) const {
    const int from = head / 2 * 3;
    std::vector<double> p, out(3);
    double sum = 0;
    const auto is_recent = [&](int j) { return j >= prompt && t - (j - prompt) < recent; };
    for (int j = 0; j <= prompt + t; ++j) {
      double score = 0;
      for (int i = 0; i < 3; ++i) {
        score += q(t, head * 3 + i) *
                 (is_recent(j) ? recent_keys(j - prompt, from + i) : keys(j, from + i));
      }
      p.push_back(std::exp(score)), sum += p.back();
    }
    for (int j = 0; j <= prompt + t; ++j) {
      for (int i = 0; i < 3; ++i) {
        out[static_cast<std::size_t>(i)] +=
            p[static_cast<std::size_t>(j)] / sum *
            (is_recent(j) ? recent_values(j - prompt, from + i) : values(j, from + i));
      }
    }
    return out;
  }
};

TEST_CASE("attention in tiles is attention, whatever window is exact") {
  ThreadPool pool(2);
  AttentionScratch<double> scratch;
  for (const int recent : {0, 1, 50, query_tile + 40, 10 * tokens}) {
    CAPTURE(recent);
    Problem p{.recent = recent};
    Matrix<double> out(tokens, 12);
    attend<double>(shape, p.q.ref(), p.rows(), out.ref(), scratch, pool);
    for (const int t : {0, 1, 60, query_tile - 1, query_tile, tokens - 1}) {
      for (int head = 0; head < 4; ++head) {
        const auto expected = p.expected(t, head);
        for (int i = 0; i < 3; ++i) {
          // Sums of 300 terms of weights that add up to one, in another order.
          REQUIRE(std::fabs(out(t, head * 3 + i) - expected[static_cast<std::size_t>(i)]) < 1e-12);
        }
      }
    }
  }
}

TEST_CASE("its gradients through several tiles are those of finite differences") {
  ThreadPool pool(1);
  AttentionScratch<double> scratch;
  for (const int recent : {0, 50}) {
    Problem p{.recent = recent};
    Matrix<double> out(tokens, 12), dq(tokens, 12), dk(tokens, 6), dv(tokens, 6), drk(tokens, 6),
        drv(tokens, 6);
    const auto value = [&] {
      attend<double>(shape, p.q.ref(), p.rows(), out.ref(), scratch, pool);
      double sum = 0;
      for (int i = 0; i < tokens * 12; ++i) sum += p.weights.data()[i] * out.data()[i];
      return sum;
    };
    attend_gradient<double>(shape, p.q.ref(), p.rows(), p.weights.ref(), dq.ref(),
                            {dk.ref(), dv.ref(), drk.ref(), drv.ref()}, scratch, pool);
    RoundingTape unused;
    const auto check = [&](Matrix<double>& of, int shift, const Matrix<double>& gradient) {
      for (const int t : {0, 70, query_tile, 2 * query_tile + 3, tokens - 1}) {
        const int c = t % gradient.cols();
        const double expected = difference::derivative(unused, of(shift + t, c), value);
        CAPTURE(recent, t, c, gradient(t, c), expected);
        REQUIRE(difference::close(gradient(t, c), expected, 1));
      }
    };
    check(p.q, 0, dq), check(p.keys, prompt, dk), check(p.values, prompt, dv);
    if (recent > 0) check(p.recent_keys, 0, drk), check(p.recent_values, 0, drv);
  }
}

// One token draws nine tenths of the attention and has nothing to say; the others share the rest.
TEST_CASE("in words attention loses nothing of the many that weigh little") {
  constexpr BlockShape one{.heads = 1, .kv_heads = 1, .head_dim = 4};
  constexpr int all = 2 * query_tile;
  Matrix<float> q(all, 4), keys(all, 4), values(all, 4), weights(all, 4);
  Random random(7);
  for (int t = 0; t < all; ++t) {
    for (int i = 0; i < 4; ++i) {
      q(t, i) = 2 + 0.1f * static_cast<float>(random.normal());
      keys(t, i) = t == 0 ? 1 : 0.1f * static_cast<float>(random.normal());
      values(t, i) = t == 0 ? 0 : 1 + 0.1f * static_cast<float>(random.normal());
      weights(t, i) = static_cast<float>(random.normal());
    }
  }
  ThreadPool pool(2);
  AttentionScratch<float> scratch;
  struct Result {
    Matrix<float> out{all, 4}, dq{all, 4}, dk{all, 4}, dv{all, 4};
  };
  const auto in = [&](Products products) {
    Result r;
    const AttendedRows<float> rows{keys.ref(), values.ref(), {}, {}, 0, products};
    attend<float>(one, q.ref(), rows, r.out.ref(), scratch, pool);
    attend_gradient<float>(one, q.ref(), rows, weights.ref(), r.dq.ref(),
                           {r.dk.ref(), r.dv.ref(), {}, {}}, scratch, pool);
    return r;
  };
  const Result floats = in(Products::floats), words = in(Products::words);
  // A word is off by half a level of 2896 at most, so a score of four products of at most 2.5 by 1
  // by 4 * 2.5 / 2896 = 0.0035, a weight by e^0.007 - 1, and an output by that of itself.
  for (int t = 0; t < all; ++t) {
    for (int i = 0; i < 4; ++i)
      REQUIRE(std::fabs(words.out(t, i) - floats.out(t, i)) <= 0.008f * floats.out(t, i));
  }
  // Gradients sum rounded products of both signs: compared as a whole, by the same share.
  const auto apart = [](const Matrix<float>& a, const Matrix<float>& b) {
    double error = 0, size = 0;
    for (int t = 0; t < all; ++t) {
      for (int i = 0; i < 4; ++i)
        error += std::pow(a(t, i) - b(t, i), 2), size += std::pow(b(t, i), 2);
    }
    return std::sqrt(error / size);
  };
  CHECK(apart(words.dq, floats.dq) < 0.008);
  CHECK(apart(words.dk, floats.dk) < 0.008);
  CHECK(apart(words.dv, floats.dv) < 0.008);
  const bool has_words = word_gemm_kernel().multiply != dense_gemm_kernel().multiply;
  CHECK((apart(words.dk, floats.dk) > 0) == has_words);
}

}  // namespace
