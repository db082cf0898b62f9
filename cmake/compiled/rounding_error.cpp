// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/rounding_error.hpp>

namespace bisup {

template const RoundingErrorKernels& rounding_error_kernels<float>();

}  // namespace bisup
