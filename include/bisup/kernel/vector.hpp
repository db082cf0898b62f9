// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides the operations on single rows? kernel/scalar_vector.hpp says what each computes;
// ops/ has their entrances, one file each.

#include <array>
#include <cstdint>

#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/scalar_vector.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/rows.hpp>
#include <bisup/kernel/each_target.hpp>
#define BISUP_LOOPS <bisup/kernel/lanes/exponential.hpp>
#include <bisup/kernel/each_target.hpp>
#define BISUP_LOOPS <bisup/kernel/lanes/hadamard.hpp>
#include <bisup/kernel/each_target.hpp>
#define BISUP_LOOPS <bisup/kernel/lanes/sign_product.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

struct VectorKernels {
  void (*rms_norm)(const float* x, const float* weight, int count, float eps, float* y) noexcept;
  void (*rope)(float* x, int heads, int half, const float* cosines, const float* sines) noexcept;
  void (*add)(const float* x, int count, float* y) noexcept;
  void (*swiglu)(const float* gate, const float* up, int count, float* y) noexcept;
  void (*softmax)(float* x, int count) noexcept;
  void (*hadamard)(float* x, int n, float scale) noexcept;
  void (*hadamard_runs)(float* x, int n, int run, float scale) noexcept;
  void (*sign_product)(float* x, int k, const std::uint8_t* signs, int width, float scale,
                       float* scratch) noexcept;
};

template <class T = float>
inline constexpr std::array vector_kernel_table = {
#if BISUP_X86
    Entry<VectorKernels>{
        Target::avx512,
        {avx512::rms_norm, avx512::rope, avx512::add, avx512::swiglu, avx512::softmax,
         avx512::hadamard, avx512::hadamard_runs, avx512::sign_product}},
    Entry<VectorKernels>{Target::avx2,
                         {avx2::rms_norm, avx2::rope, avx2::add, avx2::swiglu, avx2::softmax,
                          avx2::hadamard, avx2::hadamard_runs, avx2::sign_product}},
#endif
#if BISUP_ARM64
    Entry<VectorKernels>{Target::neon,
                         {neon::rms_norm, neon::rope, neon::add, neon::swiglu, neon::softmax,
                          neon::hadamard, neon::hadamard_runs, neon::sign_product}},
#endif
    Entry<VectorKernels>{
        Target::scalar,
        {scalar::rms_norm, scalar::rope, scalar::add, scalar::swiglu, scalar::softmax,
         scalar::hadamard, scalar::hadamard_runs, scalar::sign_product}},
};

template <class T = float>
const VectorKernels& vector_kernels() {
  static const VectorKernels kernels = choose(vector_kernel_table<T>, active_target()).function;
  return kernels;
}

#if defined(BISUP_COMPILED)
extern template const VectorKernels& vector_kernels<float>();
#endif

}  // namespace bisup
