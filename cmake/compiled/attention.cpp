// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/attention.hpp>

namespace bisup {

template const AttentionKernels& attention_kernels<float>();

}  // namespace bisup
