// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/logit_loss.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>
#include <tune/finite_difference.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

TEST_CASE("the loss is the mean divergence of the two heads' distributions, with its gradient") {
  auto hidden = difference::normals(5, 6, 1, 1);
  const auto teacher = difference::normals(5, 4, 1, 2);  // another hidden size
  const auto head = difference::normals(11, 6, 1, 3),
             teacher_head = difference::normals(11, 4, 1, 4);
  ThreadPool pool(1);
  LogitLoss<double> loss(head.ref(), teacher_head.ref());
  Matrix<double> gradient(5, 6);
  const double found = loss(hidden.ref(), teacher.ref(), gradient.ref(), pool);
  double by_hand = 0;
  for (int t = 0; t < 5; ++t) {
    std::vector<double> p, q;
    double p_sum = 0, q_sum = 0;
    for (int v = 0; v < 11; ++v) {
      double a = 0, b = 0;
      for (int i = 0; i < 4; ++i) a += teacher(t, i) * teacher_head(v, i);
      for (int i = 0; i < 6; ++i) b += hidden(t, i) * head(v, i);
      p.push_back(std::exp(a)), q.push_back(std::exp(b));
      p_sum += p.back(), q_sum += q.back();
    }
    for (std::size_t v = 0; v < 11; ++v) {
      by_hand += p[v] / p_sum * std::log(p[v] / p_sum / (q[v] / q_sum)) / 5;
    }
  }
  CHECK(found == Approx(by_hand).epsilon(1e-12));  // sums of 11 terms of size 1
  RoundingTape unused;
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < 6; ++i) {
      const double expected = difference::derivative(
          unused, hidden(t, i), [&] { return loss(hidden.ref(), teacher.ref(), {}, pool); });
      REQUIRE(difference::close(gradient(t, i), expected, 1));
    }
  }
}

TEST_CASE("a student that is the teacher has no loss and no gradient, at any number of positions") {
  ThreadPool pool(2);
  Matrix<float> hidden(300, 8), head(50, 8), gradient(300, 8);
  const auto from = difference::normals(300, 8, 1, 1), of = difference::normals(50, 8, 1, 2);
  for (int i = 0; i < 300 * 8; ++i) hidden.data()[i] = static_cast<float>(from.data()[i]);
  for (int i = 0; i < 50 * 8; ++i) head.data()[i] = static_cast<float>(of.data()[i]);
  LogitLoss<float> loss(head.ref(), head.ref());
  CHECK(loss(hidden.ref(), hidden.ref(), gradient.ref(), pool) == 0);
  for (int i = 0; i < 300 * 8; ++i) REQUIRE(gradient.data()[i] == 0);

  // Positions are computed apart: the loss of all is the mean of the losses of parts.
  auto other = hidden.clone();
  for (int i = 0; i < 300 * 8; ++i) other.data()[i] *= 1.5f;
  const double all = loss(other.ref(), hidden.ref(), {}, pool);
  const double front = loss(other.ref().rows(0, 100), hidden.ref().rows(0, 100), {}, pool);
  const double back = loss(other.ref().rows(100, 200), hidden.ref().rows(100, 200), {}, pool);
  CHECK(all == Approx((front + 2 * back) / 3).epsilon(1e-12));
}

}  // namespace
