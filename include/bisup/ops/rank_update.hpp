// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do second moments gather? H += X^T X over tokens, on and below the diagonal; the rest is
// copied once at the end.

#include <algorithm>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dense_gemm.hpp>
#include <bisup/ops/gemm_blocks.hpp>

namespace bisup {

// Adds X^T X to h on and below its diagonal; what is above is unspecified. Requires x [tokens, n],
// h [n, n], not overlapping. Every element adds its tokens in order, so tokens may come in any
// batches.
inline void add_gram(MatrixRef<const float> x, MatrixRef<float> h, ThreadPool& pool) {
  BISUP_EXPECTS(h.rows() == x.cols() && h.cols() == x.cols());
  const DenseOperand columns{x.data(), DType::f32, x.stride(), /*lines_are_columns=*/true};
  detail::multiply_blocks(dense_gemm_kernel(),
                          {.x = columns,
                           .w = columns,
                           .count = x.rows(),
                           .y = h,
                           .accumulate = true,
                           .lower_triangle = true},
                          pool);
}

// Makes h symmetric: copies what is below the diagonal above it.
inline void mirror_lower(MatrixRef<float> h) {
  BISUP_EXPECTS(h.rows() == h.cols());
  constexpr int block = 32;  // columns are read in blocks that stay in the first cache
  for (int r0 = 0; r0 < h.rows(); r0 += block) {
    for (int c0 = 0; c0 <= r0; c0 += block) {
      for (int r = r0; r < std::min(r0 + block, h.rows()); ++r) {
        for (int c = c0; c < std::min(c0 + block, r); ++c) h(c, r) = h(r, c);
      }
    }
  }
}

}  // namespace bisup
