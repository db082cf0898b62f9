// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/ops/dequantize.hpp>

template bisup::Entry<bisup::DequantizeFn> bisup::dequantize_kernel<8, false>(bisup::Target);
template bisup::Entry<bisup::DequantizeFn> bisup::dequantize_kernel<8, true>(bisup::Target);
template bisup::Entry<bisup::WeightOnlyFn> bisup::weight_only_kernel<8, false>(bisup::Target);
template bisup::Entry<bisup::WeightOnlyFn> bisup::weight_only_kernel<8, true>(bisup::Target);
