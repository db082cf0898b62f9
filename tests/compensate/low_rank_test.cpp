// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/SVD>
#include <bisup/compensate/low_rank.hpp>
#include <bisup/core/random.hpp>
#include <bisup/quant/nearest.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

constexpr double unit = 0x1p-24;

// Inputs of which some are much larger than others, and one never comes.
std::vector<float> powers(int n) {
  std::vector<float> h;
  Random random(9);
  for (int j = 0; j < n; ++j) h.push_back(static_cast<float>(std::exp(2 * random.normal())));
  h[static_cast<std::size_t>(n / 2)] = 0;
  return h;
}

Eigen::MatrixXd weighted(const Matrix<float>& e, const std::vector<float>& h) {
  Eigen::MatrixXd m(e.rows(), e.cols());
  for (int r = 0; r < e.rows(); ++r) {
    for (int c = 0; c < e.cols(); ++c) {
      m(r, c) = e(r, c) * std::sqrt(double{h[static_cast<std::size_t>(c)]});
    }
  }
  return m;
}

// The square root of sum over j of h_j |E_j - (B A)_j|^2.
double error_left(const Matrix<float>& e, const std::vector<float>& h, const LowRank& branch) {
  double sum = 0;
  for (int r = 0; r < e.rows(); ++r) {
    for (int c = 0; c < e.cols(); ++c) {
      double d = e(r, c);
      for (int k = 0; k < branch.rank(); ++k) d -= double{branch.b(r, k)} * branch.a(k, c);
      sum += h[static_cast<std::size_t>(c)] * d * d;
    }
  }
  return std::sqrt(sum);
}

TEST_CASE("the weighted error falls with the rank, as far as any branch can take it, to zero") {
  ThreadPool pool(2);
  for (const auto& [out, in] : {std::pair{24, 40}, {40, 24}}) {
    const auto e = test::normals(out, in, 3);
    const auto h = powers(in);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(weighted(e, h));
    const Eigen::VectorXd s = svd.singularValues();
    // Vectors are orthonormal within (n / 16 + 8 + 4 width) roundings (ops/singular_vectors), which
    // U U^T has twice; products sum up to 40 terms, and the halves of S are rounded.
    const double roundings = unit * (2 * (40 / 16 + 8 + 4 * 24) + 2 * 40 + 8) * s.norm();
    double before = std::numeric_limits<double>::infinity();
    for (int rank = 0; rank <= 24; ++rank) {
      CAPTURE(out, in, rank);
      const auto branch = weighted_svd(e.ref(), h, {.rank = rank}, pool);
      REQUIRE(branch);
      REQUIRE(branch->a.rows() == rank);
      REQUIRE(branch->b.cols() == rank);
      const double left = error_left(e, h, *branch), best = s.tail(24 - rank).norm();
      REQUIRE(left <= before + roundings);
      REQUIRE(left >= best - roundings);
      // What is found lies in the span of eight more vectors after 12 rounds; a direction with less
      // than 0.9 of a wanted value has 0.9^46 = 0.8 % of its part there.
      REQUIRE(left <= best * 1.01 + roundings);
      before = left;
    }
    REQUIRE(before <= roundings);
  }
}

TEST_CASE("both factors carry half, and large inputs count for more") {
  ThreadPool pool(1);
  const auto e = test::normals(32, 64, 5);
  const auto h = powers(64);
  const std::vector<float> equal(64, 1.0f);
  const auto branch = weighted_svd(e.ref(), h, {.rank = 4}, pool);
  const auto plain = weighted_svd(e.ref(), equal, {.rank = 4}, pool);
  REQUIRE((branch && plain));
  CHECK(error_left(e, h, *branch) < 0.9 * error_left(e, h, *plain));
  CHECK(error_left(e, equal, *plain) < error_left(e, equal, *branch));
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(weighted(e, h));
  for (int k = 0; k < 4; ++k) {
    double of_b = 0, of_a = 0;
    for (int r = 0; r < 32; ++r) of_b += double{branch->b(r, k)} * branch->b(r, k);
    for (int c = 0; c < 64; ++c) {
      of_a += double{branch->a(k, c)} * branch->a(k, c) * h[static_cast<std::size_t>(c)];
    }
    // |B_k|^2 = s and |A_k D|^2 = s; the values are close, so vectors may mix a little.
    CHECK(of_b == Approx(svd.singularValues()(k)).epsilon(0.01));
    CHECK(of_a == Approx(svd.singularValues()(k)).epsilon(0.01));
  }
}

TEST_CASE("the rank by energy is the lowest that explains its share") {
  ThreadPool pool(1);
  Matrix<float> e(6, 8);  // singular values 4, 2, 1, and 21 their squares' sum
  e(0, 3) = 4, e(2, 1) = 2, e(5, 7) = 1;
  const std::vector<float> h(8, 1.0f);
  const auto rank = [&](double energy, int highest) {
    const auto branch = weighted_svd(e.ref(), h, {.rank = highest, .energy = energy}, pool);
    REQUIRE(branch);
    return branch->rank();
  };
  CHECK(rank(0, 5) == 0);
  CHECK(rank(0.7, 5) == 1);  // 16 / 21 = 0.76
  CHECK(rank(0.8, 5) == 2);  // 20 / 21 = 0.95
  CHECK(rank(0.96, 5) == 3);
  CHECK(rank(0.96, 2) == 2);
  CHECK(rank(1, 5) == 5);  // as asked for, though two of them are zero
  const Matrix<float> nothing(6, 8);
  const auto branch = weighted_svd(nothing.ref(), h, {.energy = 0.5}, pool);
  REQUIRE(branch);
  CHECK(branch->rank() == 0);
}

TEST_CASE("regression finds the branch that leaves least of the residual") {
  ThreadPool pool(2);
  const int out = 20, in = 30, tokens = 900;
  const auto x = test::normals(tokens, in, 1), map_a = test::normals(3, in, 2),
             map_b = test::normals(out, 3, 3), noise = test::normals(tokens, out, 4);
  Matrix<float> moments(in, in), cross(out, in);
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> residual(static_cast<std::size_t>(out));
    for (int o = 0; o < out; ++o) {
      double sum = 0.5 * noise(t, o);
      for (int k = 0; k < 3; ++k) {
        double inner = 0;
        for (int j = 0; j < in; ++j) inner += double{x(t, j)} * map_a(k, j);
        sum += map_b(o, k) * inner;
      }
      residual[static_cast<std::size_t>(o)] = sum;
    }
    for (int j = 0; j < in; ++j) {
      for (int i = 0; i < in; ++i) moments(i, j) += x(t, i) * x(t, j) / tokens;
      for (int o = 0; o < out; ++o) {
        cross(o, j) += static_cast<float>(residual[static_cast<std::size_t>(o)] * x(t, j) / tokens);
      }
    }
  }
  for (const double damping : {0.0, 0.01, 0.5}) {
    // In double: G = L L^T, and the best branch of rank r leaves the tail of C L^-T.
    Eigen::MatrixXd g(in, in), c(out, in);
    for (int i = 0; i < in; ++i) {
      for (int j = 0; j < in; ++j) g(i, j) = double{moments(i, j)};
      for (int o = 0; o < out; ++o) c(o, i) = double{cross(o, i)};
    }
    g += damping * g.trace() / in * Eigen::MatrixXd::Identity(in, in);
    const Eigen::MatrixXd l = g.llt().matrixL();
    const Eigen::MatrixXd target =
        l.triangularView<Eigen::Lower>().solve(c.transpose()).transpose();
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(target);
    const double condition = Eigen::JacobiSVD<Eigen::MatrixXd>(l).singularValues()(0) /
                             Eigen::JacobiSVD<Eigen::MatrixXd>(l).singularValues()(in - 1);
    for (const int rank : {1, 3, 8, 20}) {
      CAPTURE(damping, rank);
      const auto branch = reduced_rank_regression(moments.ref(), cross.ref(),
                                                  {.rank = rank, .damping = damping}, pool);
      REQUIRE(branch);
      Eigen::MatrixXd made = Eigen::MatrixXd::Zero(out, in);
      for (int o = 0; o < out; ++o) {
        for (int j = 0; j < in; ++j) {
          for (int k = 0; k < rank; ++k) made(o, j) += double{branch->b(o, k)} * branch->a(k, j);
        }
      }
      const double left = (target - made * l).norm(),
                   best = svd.singularValues().tail(20 - rank).norm();
      // A factor, a solution and its undoing are each off by (in + 66 in^(1/2)) roundings times the
      // condition of L (ops/cholesky, ops/triangular), vectors and products as above.
      const double roundings =
          unit * (3 * (30 + 66 * std::sqrt(30.0)) * condition + 2 * (10 + 4 * 20) + 2 * 30) *
          target.norm();
      REQUIRE(left >= best - roundings);
      REQUIRE(left <= best * 1.01 + roundings);
    }
  }
}

TEST_CASE("the number of threads does not change a bit of a branch") {
  ThreadPool one(1), three(3);
  const auto e = test::normals(80, 96, 7);
  const auto h = powers(96);
  const auto a = weighted_svd(e.ref(), h, {.rank = 12}, one);
  const auto b = weighted_svd(e.ref(), h, {.rank = 12}, three);
  REQUIRE((a && b));
  CHECK(std::memcmp(a->a.data(), b->a.data(), 12 * 96 * sizeof(float)) == 0);
  CHECK(std::memcmp(a->b.data(), b->b.data(), 12 * 80 * sizeof(float)) == 0);
}

TEST_CASE("what is not finite, and moments without a factor, are refused") {
  ThreadPool pool(1);
  auto e = test::normals(4, 6, 1);
  std::vector<float> h(6, 1.0f);
  CHECK_THROWS_AS(weighted_svd(e.ref(), std::span(h).first(5), {}, pool), ContractViolation);
  h[2] = -1;
  CHECK_FALSE(weighted_svd(e.ref(), h, {}, pool));
  h[2] = 1, e(3, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(weighted_svd(e.ref(), h, {}, pool));
  Matrix<float> moments(6, 6);
  const auto cross = test::normals(4, 6, 2);
  for (int i = 0; i < 6; ++i) moments(i, i) = i == 4 ? -1.0f : 1.0f;
  const auto indefinite = reduced_rank_regression(moments.ref(), cross.ref(), {}, pool);
  REQUIRE_FALSE(indefinite);
  CHECK(indefinite.error().code == Errc::not_definite);
  CHECK_FALSE(reduced_rank_regression(moments.ref(), e.ref(), {}, pool));
}

}  // namespace
