// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides dense products? A table for the pieces of a blocked product, one for the product
// with a few tokens, one for combinations of a few rows; ops/gemm_dense.hpp and
// ops/combine_rows.hpp are the entrances.

#include <array>

#include <bisup/kernel/avx2/word_gemm.hpp>
#include <bisup/kernel/avx512/word_gemm.hpp>
#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/float_gemm.hpp>
#include <bisup/kernel/scalar_dense.hpp>
#include <bisup/kernel/word_gemm.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/dense_combine.hpp>
#include <bisup/kernel/each_target.hpp>
#define BISUP_LOOPS <bisup/kernel/lanes/dense_gemv.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

// Tables and resolvers are templates only so that a program that links bisup::compiled does not
// compile the kernels again.
template <class T = float>
inline constexpr std::array dense_gemm_kernels = {
#if BISUP_X86
    Entry<DenseGemmKernel>{Target::avx512,
                           {avx512::dense_tile_tokens, avx512::dense_tile_step,
                            avx512::dense_panel_rows, avx512::dense_pack, avx512::dense_tile}},
    Entry<DenseGemmKernel>{Target::avx2,
                           {avx2::dense_tile_tokens, avx2::dense_tile_step, avx2::dense_panel_rows,
                            avx2::dense_pack, avx2::dense_tile}},
#endif
#if BISUP_ARM64
    Entry<DenseGemmKernel>{Target::neon,
                           {neon::dense_tile_tokens, neon::dense_tile_step, neon::dense_panel_rows,
                            neon::dense_pack, neon::dense_tile}},
#endif
    Entry<DenseGemmKernel>{
        Target::scalar, {4, 4, scalar::dense_panel_rows, scalar::dense_pack, scalar::dense_tile}},
};

// The same pieces in words (kernel/word_gemm.hpp), of f32; in floats where words are not faster.
template <class T = float>
inline constexpr std::array word_gemm_kernels = {
#if BISUP_X86
    Entry<DenseGemmKernel>{
        Target::avx512_vnni,
        {avx512::dense_tile_tokens, avx512::dense_tile_step, avx512::dense_panel_rows,
         avx512_vnni::word_pack, avx512_vnni::word_tile}},
    Entry<DenseGemmKernel>{Target::avx512,
                           {avx512::dense_tile_tokens, avx512::dense_tile_step,
                            avx512::dense_panel_rows, avx512::dense_pack, avx512::dense_tile}},
    Entry<DenseGemmKernel>{Target::avx2,
                           {avx2::dense_tile_tokens, avx2::dense_tile_step, avx2::dense_panel_rows,
                            avx2::word_pack, avx2::word_tile}},
#endif
#if BISUP_ARM64
    Entry<DenseGemmKernel>{Target::neon,
                           {neon::dense_tile_tokens, neon::dense_tile_step, neon::dense_panel_rows,
                            neon::dense_pack, neon::dense_tile}},
#endif
    Entry<DenseGemmKernel>{
        Target::scalar, {4, 4, scalar::dense_panel_rows, scalar::dense_pack, scalar::dense_tile}},
};

template <class T = float>
inline constexpr std::array dense_gemv_kernels = {
#if BISUP_X86
    Entry<DenseGemvFn>{Target::avx512, avx512::dense_gemv},
    Entry<DenseGemvFn>{Target::avx2, avx2::dense_gemv},
#endif
#if BISUP_ARM64
    Entry<DenseGemvFn>{Target::neon, neon::dense_gemv},
#endif
    Entry<DenseGemvFn>{Target::scalar, scalar::dense_gemv},
};

template <class T = float>
inline constexpr std::array dense_combine_kernels = {
#if BISUP_X86
    Entry<DenseCombineFn>{Target::avx512, avx512::dense_combine},
    Entry<DenseCombineFn>{Target::avx2, avx2::dense_combine},
#endif
#if BISUP_ARM64
    Entry<DenseCombineFn>{Target::neon, neon::dense_combine},
#endif
    Entry<DenseCombineFn>{Target::scalar, scalar::dense_combine},
};

template <class T = float>
const DenseGemmKernel& dense_gemm_kernel() {
  static const DenseGemmKernel kernel = choose(dense_gemm_kernels<T>, active_target()).function;
  return kernel;
}

template <class T = float>
const DenseGemmKernel& word_gemm_kernel() {
  static const DenseGemmKernel kernel = choose(word_gemm_kernels<T>, active_target()).function;
  return kernel;
}

template <class T = float>
DenseGemvFn dense_gemv_kernel() {
  static const DenseGemvFn kernel = choose(dense_gemv_kernels<T>, active_target()).function;
  return kernel;
}

template <class T = float>
DenseCombineFn dense_combine_kernel() {
  static const DenseCombineFn kernel = choose(dense_combine_kernels<T>, active_target()).function;
  return kernel;
}

#if defined(BISUP_COMPILED)
extern template const DenseGemmKernel& dense_gemm_kernel<float>();
extern template const DenseGemmKernel& word_gemm_kernel<float>();
extern template DenseGemvFn dense_gemv_kernel<float>();
extern template DenseCombineFn dense_combine_kernel<float>();
#endif

}  // namespace bisup
