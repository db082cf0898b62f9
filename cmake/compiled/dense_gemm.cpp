// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/dense_gemm.hpp>

namespace bisup {

template const DenseGemmKernel& dense_gemm_kernel<float>();
template const DenseGemmKernel& word_gemm_kernel<float>();
template DenseGemvFn dense_gemv_kernel<float>();
template DenseCombineFn dense_combine_kernel<float>();

}  // namespace bisup
