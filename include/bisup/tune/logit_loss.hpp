// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far are the student's next tokens from the teacher's? KL(teacher || student) of the logits
// that two heads make of hidden states, some positions at a time, with the gradient of the
// student's hidden states; logits of a whole crop are never in memory.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/arithmetic.hpp>

namespace bisup::tune {

template <class T>
class LogitLoss {
 public:
  // Heads: [vocabulary, hidden], the caller's; one and the same if both models share it.
  LogitLoss(MatrixRef<const T> head, MatrixRef<const T> teacher_head,
            Products products = Products::floats)
      : head_(head), teacher_head_(teacher_head), products_(products) {
    BISUP_EXPECTS(head.rows() == teacher_head.rows());
  }

  // Mean over positions, in nats. hidden, teacher: [tokens, hidden], after the final norms. Writes
  // the gradient, unless it is empty.
  double operator()(MatrixRef<const T> hidden, MatrixRef<const T> teacher, MatrixRef<T> gradient,
                    ThreadPool& pool) {
    BISUP_EXPECTS(hidden.rows() == teacher.rows() && hidden.rows() > 0);
    const T factor = 1 / static_cast<T>(hidden.rows());
    const auto kernels = gradient_kernels<T>();
    double sum = 0;
    for (int first = 0; first < hidden.rows(); first += positions) {
      const int count = std::min(positions, hidden.rows() - first);
      student_logits_.resize(count, head_.rows()), teacher_logits_.resize(count, head_.rows());
      multiply_transposed(hidden.rows(first, count), head_, student_logits_.ref(), Into::replace,
                          pool, products_);
      multiply_transposed(teacher.rows(first, count), teacher_head_, teacher_logits_.ref(),
                          Into::replace, pool, products_);
      kl_.resize(static_cast<std::size_t>(count));
      pool.parallel_for(count, [&](int t, int) {
        const auto log_sum = [&](const T* x) {
          const LogSum<T> s = kernels.log_sum(x, head_.rows());
          return s.largest + std::log(s.sum);
        };
        const T* const p = teacher_logits_.row(t).data();
        T* const q = student_logits_.row(t).data();
        kl_[static_cast<std::size_t>(t)] =
            kernels.divergence(p, q, head_.rows(), log_sum(p), log_sum(q), factor, q);
      });
      for (const T kl : kl_) sum += static_cast<double>(kl);
      if (gradient.empty()) continue;
      multiply(std::as_const(student_logits_).ref(), head_, gradient.rows(first, count),
               Into::replace, pool, products_);
    }
    return sum / hidden.rows();
  }

 private:
  // Logits of both are 50 MB for a vocabulary of 50,000; more positions pack the head seldomer.
  static constexpr int positions = 128;

  MatrixRef<const T> head_, teacher_head_;
  Products products_;
  Matrix<T> student_logits_, teacher_logits_;
  std::vector<T> kl_;
};

}  // namespace bisup::tune
