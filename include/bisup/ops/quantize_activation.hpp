// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do activations become 8-bit integers? quantize_activation(x, format, out, pool): symmetric,
// one scale a token or a token and group, computed from the numbers at hand (docs/formats.md). A
// NaN gets the lowest code on every target; an infinity makes its group's scale infinite.

#include <algorithm>
#include <array>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/pack/activation.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/quantize_activation.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

using QuantizeActivationFn = void (*)(MatrixRef<const float>, const ActivationFormat&,
                                      MatrixRef<std::int8_t>, MatrixRef<float>,
                                      MatrixRef<std::int32_t>, int, int) noexcept;

inline constexpr auto quantize_activation_kernels = std::array {
#if BISUP_X86
  Entry<QuantizeActivationFn>{Target::avx512, avx512::quantize_activation},
      Entry<QuantizeActivationFn>{Target::avx2, avx2::quantize_activation},
#endif
#if BISUP_ARM64
      Entry<QuantizeActivationFn>{Target::neon, neon::quantize_activation},
#endif
      Entry<QuantizeActivationFn>{Target::scalar, scalar::quantize_activation},
};

inline void quantize_activation(MatrixRef<const float> x, const ActivationFormat& format,
                                QuantizedActivation& out, ThreadPool& pool) {
  constexpr int task_tokens = 8;
  BISUP_EXPECTS(format.clip > 0 && format.clip <= 1);
  out.resize(format, x.rows(), x.cols());
  const auto kernel = choose(quantize_activation_kernels, active_target()).function;
  const auto codes = out.codes();
  const auto scales = out.scales();
  const auto sums = out.sums();
  pool.parallel_for((x.rows() + task_tokens - 1) / task_tokens, [&](int task, int) {
    const int first = task * task_tokens, last = std::min(first + task_tokens, x.rows());
    kernel(x, format, codes, scales, sums, first, last);
  });
}

}  // namespace bisup
