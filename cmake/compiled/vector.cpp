// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/vector.hpp>

namespace bisup {

template const VectorKernels& vector_kernels<float>();

}  // namespace bisup
