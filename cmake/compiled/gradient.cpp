// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/gradient.hpp>

namespace bisup {

template const GradientKernels<float>& gradient_kernels<float>();

}  // namespace bisup
