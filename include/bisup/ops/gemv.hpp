// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do I multiply packed weights by one vector of floats? gemv(w, x, y): rounds x to 8 bits in
// w's groups, then integers. For many vectors, or one input of several weights, quantize_activation
// and gemm; for no rounding of x, multiply (ops/dequantize.hpp).

#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/gemm.hpp>
#include <bisup/ops/quantize_activation.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

inline void gemv(const PackedPanels& w, std::span<const float> x, std::span<float> y,
                 ThreadPool& pool = ThreadPool::shared()) {
  static thread_local QuantizedActivation rounded;
  BISUP_EXPECTS(static_cast<int>(x.size()) == w.shape.cols &&
                static_cast<int>(y.size()) == w.shape.rows);
  quantize_activation({x.data(), 1, w.shape.cols}, {.bits = 8, .group = w.shape.format.group},
                      rounded, pool);
  gemm(w, rounded.view(), {y.data(), 1, w.shape.rows}, pool);
}

template <AnyFormat F>
void gemv(const PackedView<F, panel16>& w, std::span<const float> x, std::span<float> y,
          ThreadPool& pool = ThreadPool::shared()) {
  gemv(PackedPanels(w), x, y, pool);
}

}  // namespace bisup
