// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Tiles of dense products in floats, on each target.

#define BISUP_LOOPS <bisup/kernel/lanes/dense_gemm.hpp>
#include <bisup/kernel/each_target.hpp>
