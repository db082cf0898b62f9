// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/ops/gemm.hpp>

template bisup::Entry<bisup::GemmFn> bisup::gemm_kernel<8, false>(bisup::Target);
template bisup::Entry<bisup::GemmFn> bisup::gemm_kernel<8, true>(bisup::Target);
