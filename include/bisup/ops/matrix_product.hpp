// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are two float matrices multiplied? C = A B, A B^T and A^T B for views with any stride, or
// added to C; through the same packed tiles as ops/gemm_dense.hpp, or in words, bit-identical for
// any number of threads.

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dense_gemm.hpp>
#include <bisup/ops/gemm_blocks.hpp>

namespace bisup {

// In what elements are multiplied. Words are as many as twice as fast where a processor has them
// (kernel/word_gemm.hpp): 256 products share two scales, 2^-12.5 of the largest element is lost.
enum class Products { floats, words };

namespace detail {

inline const DenseGemmKernel& kernel_of(Products products) {
  return products == Products::words ? word_gemm_kernel() : dense_gemm_kernel();
}

}  // namespace detail

// C = A B^T, or C += A B^T. Requires a [m, k], b [n, k], c [m, n]; c must not overlap a or b.
inline void multiply_transposed(MatrixRef<const float> a, MatrixRef<const float> b,
                                MatrixRef<float> c, Into into, ThreadPool& pool,
                                Products products = Products::floats) {
  BISUP_EXPECTS(a.cols() == b.cols() && c.rows() == a.rows() && c.cols() == b.rows());
  detail::multiply_blocks(detail::kernel_of(products),
                          {.x = {a.data(), DType::f32, a.stride()},
                           .w = {b.data(), DType::f32, b.stride()},
                           .count = a.cols(),
                           .y = c,
                           .accumulate = into == Into::add},
                          pool);
}

// C = A B, or C += A B. Requires a [m, k], b [k, n], c [m, n]; c must not overlap a or b.
inline void multiply(MatrixRef<const float> a, MatrixRef<const float> b, MatrixRef<float> c,
                     Into into, ThreadPool& pool, Products products = Products::floats) {
  BISUP_EXPECTS(a.cols() == b.rows() && c.rows() == a.rows() && c.cols() == b.cols());
  detail::multiply_blocks(detail::kernel_of(products),
                          {.x = {a.data(), DType::f32, a.stride()},
                           .w = {b.data(), DType::f32, b.stride(), /*lines_are_columns=*/true},
                           .count = a.cols(),
                           .y = c,
                           .accumulate = into == Into::add},
                          pool);
}

// C = A^T B, or C += A^T B. Requires a [k, m], b [k, n], c [m, n]; c must not overlap a or b.
inline void transposed_multiply(MatrixRef<const float> a, MatrixRef<const float> b,
                                MatrixRef<float> c, Into into, ThreadPool& pool,
                                Products products = Products::floats) {
  BISUP_EXPECTS(a.rows() == b.rows() && c.rows() == a.cols() && c.cols() == b.cols());
  const DenseOperand x{a.data(), DType::f32, a.stride(), true};
  const DenseOperand w{b.data(), DType::f32, b.stride(), true};
  detail::multiply_blocks(
      detail::kernel_of(products),
      {.x = x, .w = w, .count = a.rows(), .y = c, .accumulate = into == Into::add}, pool);
}

}  // namespace bisup
