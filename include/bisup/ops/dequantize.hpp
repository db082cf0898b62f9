// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do packed weights meet floats? dequantize(w, first_row, out, pool) writes rows of them;
// multiply(w, x, y, pool) is the weight-only product, whose activations stay floats.

#include <algorithm>
#include <array>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/packed_view.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/dequantize.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

using DequantizeFn = void (*)(const PackedPanels&, int first_row, MatrixRef<float>) noexcept;
using WeightOnlyFn = void (*)(const PackedPanels&, MatrixRef<const float>, MatrixRef<float>,
                              GemmRange) noexcept;

template <int Bits, bool Affine>
inline constexpr auto dequantize_kernels = std::array {
#if BISUP_X86
  Entry<DequantizeFn>{Target::avx512, avx512::dequantize<Bits, Affine>},
      Entry<DequantizeFn>{Target::avx2, avx2::dequantize<Bits, Affine>},
#endif
#if BISUP_ARM64
      Entry<DequantizeFn>{Target::neon, neon::dequantize<Bits, Affine>},
#endif
      Entry<DequantizeFn>{Target::scalar, scalar::dequantize<Bits>},
};

template <int Bits, bool Affine>
inline constexpr auto weight_only_kernels = std::array {
#if BISUP_X86
  Entry<WeightOnlyFn>{Target::avx512, avx512::weight_only<Bits, Affine>},
      Entry<WeightOnlyFn>{Target::avx2, avx2::weight_only<Bits, Affine>},
#endif
#if BISUP_ARM64
      Entry<WeightOnlyFn>{Target::neon, neon::weight_only<Bits, Affine>},
#endif
      Entry<WeightOnlyFn>{Target::scalar, scalar::weight_only<Bits>},
};

template <int Bits, bool Affine>
[[nodiscard]] Entry<DequantizeFn> dequantize_kernel(Target target) {
  return choose(dequantize_kernels<Bits, Affine>, target);
}
template <int Bits, bool Affine>
[[nodiscard]] Entry<WeightOnlyFn> weight_only_kernel(Target target) {
  return choose(weight_only_kernels<Bits, Affine>, target);
}
[[nodiscard]] inline Entry<DequantizeFn> dequantize_kernel(const Format& format, Target target) {
  return with_bits(format.bits, [&]<int Bits>() {
    return format.affine() ? dequantize_kernel<Bits, true>(target)
                           : dequantize_kernel<Bits, false>(target);
  });
}
[[nodiscard]] inline Entry<WeightOnlyFn> weight_only_kernel(const Format& format, Target target) {
  return with_bits(format.bits, [&]<int Bits>() {
    return format.affine() ? weight_only_kernel<Bits, true>(target)
                           : weight_only_kernel<Bits, false>(target);
  });
}

// out[i, c] = w[first_row + i, c] for all rows of out.
inline void dequantize(const PackedPanels& w, int first_row, MatrixRef<float> out,
                       ThreadPool& pool) {
  constexpr int task_rows = 16;
  BISUP_EXPECTS(first_row >= 0 && first_row + out.rows() <= w.shape.rows &&
                out.cols() == w.shape.cols);
  const DequantizeFn kernel = dequantize_kernel(w.shape.format, active_target()).function;
  pool.parallel_for((out.rows() + task_rows - 1) / task_rows, [&](int task, int) {
    const int first = task * task_rows;
    kernel(w, first_row + first, out.rows(first, std::min(task_rows, out.rows() - first)));
  });
}

namespace detail {

// Few tokens: weights are converted as they stream by. Kernels read whole tiles of columns, so x is
// copied to rows of whole tiles if it has none.
inline void multiply_few(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                         ThreadPool& pool) {
  constexpr int task_panels = 8;
  static thread_local Matrix<float> padded;
  if (const int cols = w.shape.padded_cols(); cols != x.cols()) {
    padded.resize(x.rows(), cols);
    for (int t = 0; t < x.rows(); ++t) {
      std::copy_n(x.row_data(t), x.cols(), padded.ref().row_data(t));
      std::fill_n(padded.ref().row_data(t) + x.cols(), cols - x.cols(), 0.0f);
    }
    x = padded.ref();
  }
  const WeightOnlyFn kernel = weight_only_kernel(w.shape.format, active_target()).function;
  const int panels = w.shape.row_tiles();
  pool.parallel_for((panels + task_panels - 1) / task_panels, [&](int task, int) {
    const int first = task * task_panels;
    kernel(w, x, y, {first, std::min(first + task_panels, panels), 0, x.rows()});
  });
}

}  // namespace detail

// y = x w^T with w as dequantize gives it. Requires x [tokens, w.cols], y [tokens, w.rows]. Each
// output is one chain over the columns, so a token's result is the same in every batch.
inline void multiply(const PackedPanels& w, MatrixRef<const float> x, MatrixRef<float> y,
                     ThreadPool& pool) {
  BISUP_EXPECTS(x.cols() == w.shape.cols && y.cols() == w.shape.rows && x.rows() == y.rows());
  if (x.rows() <= gemv_tokens) return detail::multiply_few(w, x, y, pool);
  // Many tokens: blocks of rows of about 8 MiB become dense weights once and meet all tokens.
  static thread_local Matrix<float> block;
  const int block_rows = std::max((2 << 20) / w.shape.cols / 16, 1) * 16;
  for (int row = 0; row < w.shape.rows; row += block_rows) {
    const int rows = std::min(block_rows, w.shape.rows - row);
    block.resize(rows, w.shape.cols);
    dequantize(w, row, block.ref(), pool);
    multiply(DenseView{block.data(), DType::f32, rows, w.shape.cols}, x, y.cols(row, rows), pool);
  }
}

#ifdef BISUP_COMPILED
#define BISUP_DEQUANTIZE_OF(bits)                                                     \
  extern template Entry<DequantizeFn> dequantize_kernel<bits, false>(Target target);  \
  extern template Entry<DequantizeFn> dequantize_kernel<bits, true>(Target target);   \
  extern template Entry<WeightOnlyFn> weight_only_kernel<bits, false>(Target target); \
  extern template Entry<WeightOnlyFn> weight_only_kernel<bits, true>(Target target);
BISUP_DEQUANTIZE_OF(2)
BISUP_DEQUANTIZE_OF(3)
BISUP_DEQUANTIZE_OF(4)
BISUP_DEQUANTIZE_OF(5)
BISUP_DEQUANTIZE_OF(6)
BISUP_DEQUANTIZE_OF(8)
#undef BISUP_DEQUANTIZE_OF
#endif

}  // namespace bisup
