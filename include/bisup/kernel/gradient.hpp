// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides the operations of a backward pass on single rows? kernel/scalar_gradient.hpp says
// what each computes; tune/ puts them together. In double there is the specification alone.

#include <array>

#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/levels.hpp>
#include <bisup/kernel/scalar_gradient.hpp>
#include <bisup/kernel/vector.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/gradient.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

template <class T>
struct GradientKernels {
  void (*round_to_levels)(const T* x, int count, const LevelRange<T>& levels, T* y) noexcept;
  RangeGradient<T> (*round_gradient)(const T* x, const T* g, int count, const LevelRange<T>& levels,
                                     T* dx) noexcept;
  void (*swiglu_gradient)(const T* gate, const T* up, const T* dh, int count, T* dgate,
                          T* dup) noexcept;
  void (*softmax_gradient)(const T* p, const T* dp, int count, T* ds) noexcept;
  void (*rms_norm_gradient)(const T* x, const T* weight, const T* dy, int count, T eps,
                            T* dx) noexcept;
  void (*product)(const T* a, const T* b, int count, T* y) noexcept;
  void (*add_product)(const T* a, const T* b, int count, T factor, T* sum) noexcept;
  T (*dot)(const T* a, const T* b, int count) noexcept;
  LogSum<T> (*log_sum)(const T* x, int count) noexcept;
  T(*divergence)
  (const T* teacher, const T* student, int count, T p_log, T q_log, T factor, T* gradient) noexcept;
};

template <class T>
inline constexpr GradientKernels<T> scalar_gradient_kernels = {
    scalar::round_to_levels<T>,   scalar::round_gradient<T>,
    scalar::swiglu_gradient<T>,   scalar::softmax_gradient<T>,
    scalar::rms_norm_gradient<T>, scalar::product<T>,
    scalar::add_product<T>,       scalar::dot<T>,
    scalar::log_sum<T>,           scalar::divergence<T>};

template <class T = float>
inline constexpr std::array gradient_kernel_table = {
    Entry<GradientKernels<T>>{Target::scalar, scalar_gradient_kernels<T>}};

template <>
inline constexpr std::array gradient_kernel_table<float> = {
#if BISUP_X86
    Entry<GradientKernels<float>>{
        Target::avx512,
        {avx512::round_to_levels, avx512::round_gradient, avx512::swiglu_gradient,
         avx512::softmax_gradient, avx512::rms_norm_gradient, avx512::product, avx512::add_product,
         avx512::dot, avx512::log_sum, avx512::divergence}},
    Entry<GradientKernels<float>>{
        Target::avx2,
        {avx2::round_to_levels, avx2::round_gradient, avx2::swiglu_gradient, avx2::softmax_gradient,
         avx2::rms_norm_gradient, avx2::product, avx2::add_product, avx2::dot, avx2::log_sum,
         avx2::divergence}},
#endif
#if BISUP_ARM64
    Entry<GradientKernels<float>>{
        Target::neon,
        {neon::round_to_levels, neon::round_gradient, neon::swiglu_gradient, neon::softmax_gradient,
         neon::rms_norm_gradient, neon::product, neon::add_product, neon::dot, neon::log_sum,
         neon::divergence}},
#endif
    Entry<GradientKernels<float>>{Target::scalar, scalar_gradient_kernels<float>},
};

template <class T>
const GradientKernels<T>& gradient_kernels() {
  static const GradientKernels<T> kernels =
      choose(gradient_kernel_table<T>, active_target()).function;
  return kernels;
}

#if defined(BISUP_COMPILED)
extern template const GradientKernels<float>& gradient_kernels<float>();
#endif

}  // namespace bisup
